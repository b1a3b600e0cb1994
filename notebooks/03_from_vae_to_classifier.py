# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From a VAE to a classifier
#
# An autoencoder squeezes an image through a few numbers and paints it again. Tell it the class, and it paints what it
# thinks that class looks like. Then a classifier is one question away: whose painting looks most like the image?
#
# **You will** build by hand a variational autoencoder, its bound, a conditional one, and two rules that turn paintings
# into a decision. You will see what a threshold in front of a network does to attacks, and count what all of it costs.
# **You need** the Gaussian from chapter 01 and a little PyTorch; chapter 02 has the random field, chapters 04 and 05 take
# scores and attacks apart. **It takes** an hour to read; the cells run in under a minute on a laptop.
#
# The document that this book calls `zoo` {cite}`zoo` compares thirteen classifiers of MNIST. Its networks are here, but for
# the denoiser of chapter 02. This is what it says of them, and after each quotation what can be measured:
#
# - "The accuracy of the CVAE Classifier on unperturbed images is 88.4%", with the nearest of 100 pictures; the other
#   rule is worse "by a large margin (around 20%)": clean accuracies.
# - The CNN-VAE, its two binary variants and their discriminative twins all "reach above 97%": the same.
# - "CVAE always has higher classification accuracies" than its two twins on gradient attacks, "before all of their
#   accuracies eventually dropped to near zero": accuracies after FGSM and PGD.
# - CNN-VAE models "are clearly more robust compared to their discriminative counterparts ... across all types of
#   attacks": the same, pair by pair.
# - Binary models "drop sharply ... with $\epsilon = 0.5$": accuracy at 0.3 against 0.5.
# - The CRF brings "no better robustness but significantly more computational cost": a difference, and seconds.
# - Generative classifiers cost "50 times more for VAE models": seconds. Table 3 has ratios from 38 to 50.
#
# Sizes of the dense networks, optimisers, epochs and the threshold are not stated. `hybridgen_lib/recipes` says what we took.

# %% tags=["parameters"]
profile = "quick"
seed = 0
data_root = ""
device = "auto"

# %%
import math
import time
from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.lines import Line2D
from torch import nn

from hybridgen_lib import attacks, data, figures, recipes, report, results
from hybridgen_lib.attacks import L2, Linf
from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.measurement import paired_difference
from hybridgen_lib.models.autoencoders import NearestPicture
from hybridgen_lib.models.binary import binarise
from hybridgen_lib.models.factorization import Factorization

# %%
figures.use_style()
torch.backends.cudnn.deterministic = True  # on a GPU, too, equal calls give equal scores
torch.backends.cudnn.allow_tf32 = False
device = recipes.choose_device(device)
fashion = data.load(
    "fashion-mini" if profile == "quick" else "fashion-mnist", data_root or None
)

# %%
x = data.as_float(fashion.test_x[:200]).to(device)
y = fashion.test_y[:200].to(device)
short = [name.split("/")[0] for name in fashion.classes]


def load_model(name):
    return recipes.trained(name, fashion, profile, seed, device=device)


def scores(model, x):
    with torch.no_grad(), frozen_noise(model, seed):
        return model(x)


def accuracy(model, x, y):
    return (scores(model, x).argmax(1) == y).float().mean().item()


# %% [markdown]
# ## A VAE in four steps
#
# A variational autoencoder {cite}`kingma2014vae` is a model of images, $p(z)\,p(x|z)$: draw a code $z$ from a standard
# normal, paint it. Four steps train it.
#
# 1. The *encoder* looks at $x$ and says where its code may lie: $q(z|x) = N(\mu, \sigma^2)$, one mean and one spread for
#    each of 20 numbers.
# 2. A code is drawn, written as $z = \mu + \sigma\varepsilon$ with $\varepsilon \sim N(0, 1)$. So gradients pass through
#    $\mu$ and $\sigma$, and the randomness stays outside.
# 3. The *decoder* paints $z$.
# 4. The painting pays for its error, the code for the distance of $q$ from the standard normal.
#
# Here are the first three by hand, with the weights of a trained model. The encoder has two hidden layers of 500 units, the
# decoder one.

# %%
vae = load_model("vae-classifier-pretrained")


def linear(layer, h):
    return h @ layer.weight.T + layer.bias


def encode(x):
    net = vae.encoder.mlp
    h = torch.relu(linear(net.trunk.dense, x.flatten(1)))
    h = torch.relu(linear(net.first, h))
    mean, log_sigma = linear(net.rest[1], h).chunk(2, 1)
    return mean, log_sigma.exp()


def decode(z):
    net = vae.decoder.dense
    h = torch.relu(linear(net.first, z))
    return torch.sigmoid(linear(net.rest[1], h)).view(-1, 1, 28, 28)


# %% [markdown]
# The fourth step is the lower bound of $\log p(x)$, equation 4 of the document:
#
# $$\mathrm{ELBO}(x) = \mathbb{E}_{q}\big[\log p(x|z)\big] - D_{KL}\big[q(z|x)\,\|\,p(z)\big] .$$
#
# The second term has a closed form: for two normals it is a sum over the code's numbers. The first has none, since the
# code passes through a network; one drawn code estimates it. For that code, with $\sigma^2 = \frac12$ for a pixel, as in
# Deep Bayes {cite}`li2019generative`, $\log p(x|z)$ is a squared error:
#
# $$\log p(x|z) = -\lVert x - \mathrm{paint}(z)\rVert^2 - \tfrac{784}{2}\log\pi, \qquad
# D_{KL} = \sum_d \tfrac12\big(\mu_d^2 + \sigma_d^2 - 1\big) - \log\sigma_d .$$


# %%
def divergence(mean, sigma):
    return 0.5 * (mean**2 + sigma**2 - 1) - sigma.log()


def elbo(x, eps):
    mean, sigma = encode(x)
    painting = decode(mean + sigma * eps)
    log_p = -(x - painting).square().flatten(1).sum(1) - 784 / 2 * math.log(math.pi)
    return log_p - divergence(mean, sigma).sum(1)


with torch.no_grad(), frozen_noise(vae, seed):
    eps = vae.noise(1, 1, 20, x)[0]
    torch.testing.assert_close(elbo(x, eps), vae.elbo(x, y), rtol=1e-5, atol=1e-2)

# %% [markdown]
# `frozen_noise` repeats one draw, so that a model is a plain function (chapter 05). The labels `y` stand in the library's
# call and are not looked at: this VAE has never heard of classes. Next, one image of each class above its painting. Look at
# what twenty numbers keep.

# %%
one_each = torch.stack([(y == c).nonzero()[0, 0] for c in range(10)])
with torch.no_grad():
    paintings = decode(encode(x[one_each])[0])
_ = figures.image_grid(
    torch.cat([x[one_each], paintings]).cpu(),
    short + [""] * 10,
    row_titles=["image", "painting"],
)

# %% [markdown]
# The kind of garment comes back, with its brightness. Patterns, prints and straps do not. Did it need all of the twenty
# numbers? The price says so: a number whose $q$ is the standard normal for every image costs nothing and carries nothing.

# %%
with torch.no_grad():
    price = divergence(*encode(x)).mean(0).sort(descending=True).values.cpu()
used = (price > 0.1).sum().item()
print(
    f"{price.sum():.1f} nats an image; {used} of 20 numbers cost more than a tenth of a nat"
)
assert 0 < used < 20

# %% [markdown]
# The others are idle. That is not a failure of training but what the bound asks for {cite}`burda2016iwae`. A pixel
# may be off by $\sigma = 0.71$ at no great cost, so few details are worth their price.

# %% [markdown]
# ## Two twins that only read
#
# The document makes two discriminative classifiers of the encoder. A sampled code goes into a dense network that says
# $p(y|z)$.
#
# - **VAE classifier**: encoder and network are trained together, by cross-entropy.
# - **VAE classifier, pre-trained**: the encoder is taken from the VAE above and frozen; only the network is trained.
#
# The second is easily written down.

# %%
with torch.no_grad(), frozen_noise(vae, seed):
    mean, sigma = encode(x)
    z = mean + sigma * vae.noise(1, 1, 20, x)[0]
    hidden = torch.relu(linear(vae.head[0], z))
    mine = linear(vae.head[2], hidden).log_softmax(1)
    torch.testing.assert_close(mine, vae(x), rtol=1e-4, atol=1e-4)

# %% [markdown]
# So the two have the same networks, and differ in what their codes were trained for. The picture shows where the codes of
# 200 images lie, along the two directions in which they spread most. Compare the scale of the axes, and the spread of the
# noise in the titles.

# %%
twins = {"vae-classifier": load_model("vae-classifier"), "vae-classifier-pretrained": vae}
noise = {}
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.5))
for axis, (name, model) in zip(axes, twins.items(), strict=True):
    with torch.no_grad():
        q = model.encoder(x=x).base_dist
        noise[name] = (q.scale.median() / q.loc.std()).item()
        centred = q.loc - q.loc.mean(0)
        directions = torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
        flat = (centred @ directions).cpu()
    for c in range(10):
        mine = (y == c).cpu()
        axis.plot(*flat[mine].T, "os^vD"[c % 5], color=f"C{c % 8}", ms=4, label=short[c])
    axis.set_title(f"{name}: median σ = {q.scale.median():.2g}", fontsize=9)
    axis.set(xlabel="first direction", ylabel="second direction")
_ = figure.legend(*axis.get_legend_handles_labels(), loc="outside right center")
assert noise["vae-classifier"] < 0.1 < noise["vae-classifier-pretrained"]

# %% [markdown]
# The pre-trained codes fill a round cloud, with much noise for its size. Of the others trousers, sandals and bags lie far
# apart and the tops in one heap, and their noise is next to nothing. Of course: the cross-entropy has no term that keeps a
# code near a standard normal, so the network turns the noise off. The document thinks that the latent space "acts as a
# regularization (due to Gaussian constraint)" and makes this model sturdier than a plain network. In the model as the text
# describes it, no such constraint is left.

# %% [markdown]
# ## Tell it the class
#
# A *conditional* VAE {cite}`sohn2015learning` gives the label to both sides. The document's equation 5 subtracts a divergence
# from $P(z, y)$. A distribution over codes cannot be compared with one over codes and labels, so we read $P(z)$: the code
# knows nothing of the class, and the model is $p(y)\,p(z)\,p(x|z,y)$. The document's Figure 2 draws it as an architecture;
# here it is as a graph. Look for the arrow that the plain VAE lacks.

# %%
CVAE = "p(y) p(z) p(x|z,y)"
figure, axes = plt.subplots(1, 2, figsize=(4.6, 2.5))
for axis, formula in zip(axes, ("p(z) p(x|z)", CVAE), strict=True):
    figures.draw_graph(Factorization.parse(formula), axis=axis)

# %% [markdown]
# No arrow joins $y$ and $z$. Whatever makes a class a class must go into the painting by the direct way, and the code is
# left with the rest: how bright, how wide. So the same code can be painted as every class.
#
# That is the document's Figure 3: pictures drawn for a class stand in for the class. One row is one code, one column a
# class. Look down a column for its variety, and along a row for what the code says in every class.

# %%
cvae = load_model("cvae")
codes = torch.randn(4, 1, 20, generator=torch.Generator().manual_seed(seed)).to(device)
every = torch.eye(10, device=device)
with torch.no_grad():
    painted = cvae.cvae.networks["p(x|z,y)"](
        z=codes, y=every[None]
    ).mean  # (4, 10, 1, 28, 28)
_ = figures.image_grid(painted.flatten(0, 1).cpu(), short + [""] * 30)

# %% [markdown]
# ## Whose picture is nearest?
#
# To classify, the document throws the encoder away. It draws $K = 100$ codes from $p(z)$, paints them as each class, and
# compares the image with all pictures $\mu_{kc}$. It tries two rules. One takes the nearest picture of a class, the other
# the mean over all of them:
#
# $$s^{\text{nearest}}_c = -\min_k \lVert x - \mu_{kc}\rVert^2, \qquad
# s^{\text{mean}}_c = -\frac1K\sum_k \lVert x - \mu_{kc}\rVert^2 .$$
#
# Bayes' rule has an opinion, too. The codes come from $p(z)$, so the average of $p(x|z_k, c)$ is an unbiased estimate of
# $p(x|c)$. With $\log p(x|z_k,c) = -\lVert x - \mu_{kc}\rVert^2$ and a constant, the third rule is
#
# $$s^{\text{Bayes}}_c = \log \frac1K \sum_k \exp\big(-\lVert x - \mu_{kc}\rVert^2\big) .$$


# %%
def squared_distances(x, pictures):
    """(B, K, C) from images (B, 1, 28, 28) and pictures (K, C, 1, 28, 28)."""
    x, pictures = x.flatten(1), pictures.flatten(2)
    inner = torch.einsum("bd,kcd->bkc", x, pictures)
    return x.square().sum(1)[:, None, None] - 2 * inner + pictures.square().sum(2)


rules = {
    "nearest": lambda d: -d.amin(1),
    "Bayes": lambda d: torch.logsumexp(-d, 1) - math.log(d.shape[1]),
    "mean": lambda d: -d.mean(1),
}

# %% [markdown]
# The library has the document's two, under the names `nearest` and `mse`. By hand they are the same. And Bayes' score lies
# between them: an average is never above its largest term, and the logarithm of a mean never below the mean of logarithms.

# %%
with torch.no_grad(), frozen_noise(cvae, seed):
    d = squared_distances(x, cvae.pictures(x))
    by_rule = {name: rule(d) for name, rule in rules.items()}
for name, rule in (("nearest", "nearest"), ("mean", "mse")):
    library = scores(NearestPicture(cvae.cvae, cvae.samples, rule), x)
    torch.testing.assert_close(by_rule[name], library, rtol=1e-4, atol=1e-2)
assert (by_rule["mean"] <= by_rule["Bayes"] + 1e-3).all()
assert (by_rule["Bayes"] <= by_rule["nearest"] + 1e-3).all()

# %% [markdown]
# How many pictures does it take? Below, accuracy on 200 images for growing $K$, averaged over up to ten draws. Before you
# look: which of the three lines should stop rising first?

# %%
with torch.no_grad():
    many = NearestPicture(cvae.cvae, 1_000)
    pictures = many.pictures(x, torch.Generator().manual_seed(seed))
    d = squared_distances(x, pictures)
sizes, reached = [1, 3, 10, 30, 100, 300, 1_000], {name: [] for name in rules}
for K in sizes:
    draws = [d[:, start : start + K] for start in range(0, 1_000 - K + 1, K)][:10]
    for name, rule in rules.items():
        right = torch.stack([rule(draw).argmax(1) == y for draw in draws])
        reached[name].append(right.float().mean().item())
figure, axis = plt.subplots(figsize=(5.6, 3.0))
for name, marker in zip(rules, "os^", strict=True):
    axis.plot(sizes, reached[name], f"{marker}-", label=name)
title = f"200 images of {fashion.name}: a sketch"
axis.set(xscale="log", xlabel="K, pictures of each class", ylabel="accuracy", title=title)
_ = axis.legend()

# %%
assert reached["nearest"][-1] > reached["mean"][-1] + 0.05
assert abs(reached["nearest"][-1] - reached["Bayes"][-1]) < 0.05

# %% [markdown]
# The mean stops early and low; the other two rise up to 300 pictures and hardly differ. So the document chose well, and its
# guess at the reason is close: far pictures should not count. A line of algebra says more. With $\bar\mu_c$ the mean
# picture,
#
# $$\frac1K\sum_k \lVert x - \mu_{kc}\rVert^2 = \lVert x - \bar\mu_c\rVert^2 +
# \frac1K\sum_k \lVert \mu_{kc} - \bar\mu_c\rVert^2 .$$
#
# The image is compared with *one* picture, a blurred one, and then a class is punished for its variety. However many
# pictures are drawn, it stays a classifier by class means.

# %%
average = pictures.mean(0)
variety = (pictures - average).square().flatten(2).sum(2).mean(0)
to_average = squared_distances(x, average[None])[:, 0]
torch.testing.assert_close(d.mean(1), to_average + variety, rtol=1e-4, atol=1e-2)

# %% [markdown]
# Move the slider: the pictures of each class that are nearest to one image, out of more and more. The number is the squared
# distance, and a star marks the smallest. Look at which classes find something better, and at what they never find.

# %% tags=["hide-input", "slider"]
undecided = (d.amin(1).topk(2, largest=False).values.diff(dim=1)[:, 0]).argmin().item()


def frame(K):
    closest, which = d[undecided, :K].min(0)
    tiles = torch.stack([x[undecided], *(pictures[k, c] for c, k in enumerate(which))])
    marks = ["*" if c == closest.argmin() else "" for c in range(10)]
    titles = [f"{n}\n{v:.0f}{m}" for n, v, m in zip(short, closest, marks, strict=True)]
    titles = [f"the image:\n{short[y[undecided]]}", *titles]
    figure = figures.image_grid(tiles.cpu(), titles, columns=11)
    figure.set_size_inches(8.6, 1.05)
    return figure


values = [1, 10, 100, 1_000]
alt = "A test image and the nearest of K pictures of each class"
figures.slider_figure([frame(K) for K in values], values, "K", start=2, alt=alt)

# %% [markdown]
# The distances fall for every class, quickly at first. At the quick profile hardly anything is gained after K = 10.
# What is still missing is detail, and more draws do not bring it: even from the encoder's own codes, the VAE
# above painted none. But classes one unit apart should each be judged by their best code, and an encoder proposes a good one
# at once. Where it does so for a decoder to judge, this book calls it a *guide*.

# %% [markdown]
# ## What each class thinks it sees
#
# The document's stronger model, the CNN-VAE, "has the same architecture used in" Deep Bayes. Its formula is called GFZ there:
# $p(z)\,p(y|z)\,p(x|z,y)$, with convolutions. Chapter 04 builds it from the ground up. What matters here: it keeps its
# encoder, $q(z|x,y)$, and asks it once for every class. "Suppose this is a coat. Which code?" The decoder paints the answer.
#
# Two rows for one image: as it is, and after a small attack. Above each painting stands the class's score, in nats
# behind the best; a star marks the best. Look at how little the paintings change.

# %%
cnn_vae = load_model("cnn-vae")


def guesses(model, x):
    code = model.networks["q(z|x,y)"](x=x[:, None], y=every).mean
    return model.networks["p(x|z,y)"](z=code, y=every).mean


def guess_grid(images, tables, paintings, row_titles):
    tiles, titles = torch.cat([images[:, None], paintings], 1).flatten(0, 1), []
    for row in tables - tables.amax(1, keepdim=True):
        behind = [f"{v:.1f}" + "*" * (v == 0) for v in row.tolist()]
        titles += ["image", *(f"{s}\n{v}" for s, v in zip(short, behind, strict=True))]
    return figures.image_grid(tiles.cpu(), titles, columns=11, row_titles=row_titles)


# %%
sure = scores(cnn_vae, x[:60])
lead = sure.gather(1, y[:60, None])[:, 0] - sure.scatter(1, y[:60, None], -1e9).amax(1)
near = (lead.where(lead > 0, torch.inf) - 5).abs().argsort()[:4]  # right, by about 5 nats
with frozen_noise(cnn_vae, seed):
    attacked = attacks.pgd(cnn_vae, x[near], y[near], Linf(0.1), steps=20, loss="margin")
first = (scores(cnn_vae, attacked).argmax(1) != y[near]).int().argmax()  # that falls
shown = near[first][None]
pair = torch.cat([x[shown], attacked[first][None]])
assert (scores(cnn_vae, pair).argmax(1) == y[shown]).tolist() == [True, False]
with torch.no_grad():
    _ = guess_grid(
        pair, scores(cnn_vae, pair), guesses(cnn_vae, pair), ["clean", "ε = 0.1"]
    )

# %% [markdown]
# The attacker need not repaint anything. Each class goes on seeing about what it saw. The scores shift, by a few nats
# among the shoes and by tens of nats for the rest, and the order changes. A generative classifier has to explain every pixel.
# That is what gives it its shape, and it also lets many small errors add up.

# %% [markdown]
# ## One sentence, two classifiers
#
# How does the CNN-VAE decide? The appendix says: "for each class $y$, we sample $k$ (by default 10) vectors from the
# posterior distribution $P(z|y)$, then the decoder generates $k$ images in order to compute the likelihood ... by average
# the $k$ reconstruction losses". This can be read in two ways.
#
# - **The text.** $P(z|y)$ looks at no image, so it is a prior. The text has no factor $p(y|z)$; then it is $p(z)$. Average $k
#   = 10$ losses of random codes: our rule of the mean, above. (The model of the code has $p(y|z)$, so random codes suit it
#   less well.)
# - **The released code** draws from the guide $q(z|x,y)$ and weighs each code by $p/q$, as Deep Bayes does: chapter 04.
#
# Both are classifiers, of the very same weights. `NearestPicture` takes any model with a $p(z)$ and a $p(x|z,y)$. Which of
# the two can reach the 97 % that the document reports?

# %%
few, labels = x[:100], y[:100]
readings = {
    "text: mean of 10 losses": NearestPicture(cnn_vae, 10, "mse"),
    "text, nearest of 10": NearestPicture(cnn_vae, 10, "nearest"),
    f"code: {cnn_vae.samples} from the guide, weighed": cnn_vae,
}
by_reading = {}
for name, model in readings.items():
    by_reading[name] = accuracy(model, few, labels)
    print(f"{name:38} {100 * by_reading[name]:.0f} % of 100 images")
text_says, *_, code_says = by_reading.values()
assert text_says < code_says

# %% [markdown]
# A hundred images of clothes: a sketch. On MNIST we ran the same lines with the model of the `cpu` profile and 1,000 images:
# the mean of ten losses was right on 73.5 % of them, the nearest of ten pictures on 82.2 % and of a hundred on 90.9 %. (To
# repeat that, load `mnist` at the top, at that profile, and let `x` and `few` have 1,000 images.) The guide's way is right on
# 96.4 %, as recorded below. More codes do not rescue the mean, since it converges to a classifier by class means: with a
# hundred it was right on 75.6 %. With these weights only the code's way comes near 97 %, and that is what `cnn-vae` means in
# this book. A model trained as the text says we have not tried.

# %% [markdown]
# ## Black and white
#
# Two more models see no grey. Each pixel is replaced by 1 if it is at least $\frac12$, else by 0. The document states no
# threshold where it describes these models; its code has $\frac12$. A step is flat on both sides, so its derivative is
# zero, and gradients die there. The *straight-through estimator* {cite}`bengio2013estimating` takes the step on the way
# forward, and pretends on the way back that it had been the identity.


# %%
class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return (x >= 0.5).to(x.dtype)

    @staticmethod
    def backward(context, gradient):
        return gradient


inside = x[:4].clone().requires_grad_()
weight = torch.randn(inside.shape, generator=torch.Generator().manual_seed(seed)).to(device)
for step in (StraightThrough.apply, binarise):
    assert set(step(inside).unique().tolist()) == {0.0, 1.0}
    (g,) = torch.autograd.grad((step(inside) * weight).sum(), inside)
    torch.testing.assert_close(g, weight)

# %%
t = torch.linspace(0, 1, 401)
figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.5))
axes[0].plot(t, binarise(t), color="C0")
axes[0].set(title="forward", xlabel="pixel", ylabel="what the model sees")
axes[1].plot(t, torch.ones_like(t), color="C1", label="straight-through")
axes[1].plot(t, torch.zeros_like(t), color="C0", ls="--", label="true, but for one point")
axes[1].set(title="backward", xlabel="pixel", ylabel="derivative", ylim=(-0.15, 1.5))
_ = axes[1].legend(loc="upper left")

# %% [markdown]
# What is it good for in an attack? The same FGSM on the same model, `cnn-binary`, with the true derivative and with the
# borrowed one:


# %%
class Step(nn.Module):
    def forward(self, x):
        return (x >= 0.5) + 0 * x  # the derivative is 0, as a step's is


cnn, cnn_binary = load_model("cnn"), load_model("cnn-binary")
true_step = nn.Sequential(Step(), cnn_binary.network)
before = accuracy(cnn_binary, few, labels)
for name, gradients in {"true": true_step, "straight-through": cnn_binary}.items():
    tried = attacks.fgsm(cnn_binary, few, labels, Linf(0.2), surrogate=gradients)
    moved = (tried - few).abs().max().item()
    left = accuracy(cnn_binary, tried, labels)
    print(
        f"{name:17} moves pixels by {moved:.1f}; {100 * before:.0f} % -> {100 * left:.0f} %"
    )

# %% [markdown]
# With the true derivative there is nothing to follow, and the attack does not move. Whoever reports that as robustness has
# measured a blindfold. With the borrowed one the attack goes where it hurts. It is one case of BPDA, which chapter 07 is
# about.
#
# ### Why 0.3 is little and 0.5 is everything
#
# A pixel changes side only if it can reach the threshold. So before any attack one can count what it could do:


# %%
def can_flip(x, eps):
    return torch.where(x < 0.5, x + eps >= 0.5, x - eps < 0.5)


radii = [0.0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.49, 0.5]
white = binarise(few)  # the same clothes, black and white before anyone attacks
flips = {"clothes": few, "black and white": white}
shares = {
    name: [can_flip(images, eps).float().mean().item() for eps in radii]
    for name, images in flips.items()
}
assert shares["black and white"][:-1] == [0.0] * 7

# %% [markdown]
# On the left, the share of pixels that an attack of size $\epsilon$ could flip. On the right, what FGSM leaves of two
# networks, on the clothes and on the same clothes made black and white first. Look at 0.49 and 0.5.

# %%
grid = [0.0, 0.1, 0.2, 0.3, 0.4, 0.49, 0.5]
figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.0))
for (name, share), marker in zip(shares.items(), "os", strict=True):
    axes[0].plot(radii, share, f"{marker}-", label=name)
axes[0].set(xlabel="ε", title="share of pixels that can flip")
axes[0].legend()
kept = {}
for model_name, model in {"cnn": cnn, "cnn-binary": cnn_binary}.items():
    for name, images in flips.items():
        for eps in grid:
            tried = attacks.fgsm(model, images, labels, Linf(eps))
            kept[model_name, name, eps] = accuracy(model, tried, labels)
        line = [kept[model_name, name, eps] for eps in grid]
        look = (
            {"cnn": "C1", "cnn-binary": "C2"}[model_name],
            "-o" if name == "clothes" else "--s",
        )
        axes[1].plot(grid, line, look[1], color=look[0], label=f"{model_name}, {name}")
axes[1].set(xlabel="ε", ylim=(-0.03, 1.03), title="accuracy after FGSM, 100 images")
_ = figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right center")

# %%
on_white = [kept["cnn-binary", "black and white", eps] for eps in grid]
assert len(set(on_white[:-1])) == 1  # nothing happens up to 0.49
assert on_white[-1] < on_white[0] - 0.2

# %% [markdown]
# On black and white images no attack below 0.5 can do anything at all to a model that begins with the threshold, by any
# means, with or without gradients. `cnn`, which has none, falls there, too. At 0.5 the attack can light every black pixel,
# and still put out no white one. Clothes are full of greys, and lose pixels steadily.
#
# MNIST is nearly black and white. Of the pixels of its first 1,000 test images, the same count gives 6.1 % at $\epsilon =
# 0.3$, 12.9 % at 0.49 and 99.3 % at 0.5. So the two radii of the document's tables ask a binary model two questions that have
# little to do with how it models digits. At 0.3 nine pixels in ten are out of reach. At 0.5 nearly all are within reach. The
# document knows it: 0.5 "is the threshold where the binarized pixel values can be flipped". Then its two tables cannot rank
# these models by how they model digits.
#
# Another oddity: at exactly 0.5 a black pixel may rise to $\frac12$ and counts as lit, while a white one that sinks to
# $\frac12$ is lit still. Whether 0.5 is a cliff depends on a $\ge$. Exercise 3 looks at it.

# %% [markdown]
# ## A random field in the likelihood
#
# The binary CNN-VAE swaps Normal pixels for coin tosses: the decoder gives log odds, and $\log p(x|z,y)$ is a sum of
# Bernoulli terms. That assumes that pixels are independent, given the code. A conditional random field says instead
# that neighbours like to agree. Chapter 02 has the field and mean field, which turns it back into independent pixels
# with better odds. Here it stands behind the decoder, and learns how much neighbours count.

# %%
binary, crf = load_model("cnn-vae-binary"), load_model("cnn-vae-crf")
coupling = crf.networks["p(x|z,y)"].pixels.coupling.item()
print(f"coupling: {coupling:.2f} nats for a neighbour of equal value; it began at 1")
boot = (y == 9).nonzero()[1]
image = binarise(x[boot]).expand(2, -1, -1, -1)
with torch.no_grad():
    tables = torch.cat([scores(model, x[boot]) for model in (binary, crf)])
    paintings = torch.cat([guesses(model, image[:1]) for model in (binary, crf)])
_ = guess_grid(image, tables, paintings, ["independent", "field"])

# %% [markdown]
# Compare the two rows, along edges and in the grey. Behind the field the edges are harder, and where the painting is unsure
# there is a faint chessboard: mean field updates the white squares before the black ones, and stops after three rounds.
# Who makes the decisions there, the decoder or the field? The log odds that the decoder hands over tell.


# %%
def log_odds(painter, **inputs):
    """What the decoder hands to its pixels, before any field."""
    seen = []
    keep = painter.pixels.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    painter(**inputs)
    keep.remove()
    return seen[0]


bw, loud = binarise(x), {}
for name, model in {"independent": binary, "field": crf}.items():
    painter = model.networks["p(x|z,y)"]
    with torch.no_grad():
        code = model.networks["q(z|x,y)"](x=bw, y=every[y]).mean
        nats = painter(z=code, y=every[y]).log_prob(bw).mean().item()
        loud[name] = log_odds(painter, z=code, y=every[y]).abs().mean().item()
    print(f"{name:11}  log odds of size {loud[name]:.1f}, log p(x|z,y) = {nats:.0f} nats")
assert loud["field"] < loud["independent"]

# %% [markdown]
# The decoder has learned to whisper, and the field makes it loud: neighbours talk each other into black or white. What
# comes out is no better as a density. At the quick profile the images are even a little less likely under it. A
# decoder that sees the whole code can make neighbours agree by itself, and the document suspects as much: independent
# pixels are "already good enough". What the field surely changes is the bill, below.

# %% [markdown]
# ## Figure 5: a morph
#
# The document shows one image under the $\ell_2$ fast gradient method, whose digit turns from a 7 into a 9 as $\epsilon$
# goes "from 0.1 to 0.5". Its other $\ell_2$ radii run from 1 to 5. For 784 pixels, 0.5 is a change of 0.018 each. Below,
# the first two rows are the same attack on the conditional VAE, at both sets of radii. The third is its twin FGSM, which
# moves *every* pixel by $\epsilon$, at the radii of the caption. Which of them is a morph?

# %%
table = scores(cvae, x)
runner = table.scatter(1, y[:, None], -1e9).amax(1)
gap = table.gather(1, y[:, None])[:, 0] - runner
i = torch.where((gap > 2) & (y == 7), gap, 1e9).argmin()[None]  # a sneaker, just right
rows, said = [], []
small = [0.1, 0.2, 0.3, 0.4, 0.5]
by_row = {
    "FGM, caption": (attacks.fgm, L2, small),
    "FGM, grid": (attacks.fgm, L2, [1.0, 2.0, 3.0, 4.0, 5.0]),
    "FGSM, caption": (attacks.fgsm, Linf, small),
}
for attack, ball, radii in by_row.values():
    for eps in [0.0, *radii]:
        with frozen_noise(cvae, seed):
            rows.append(attack(cvae, x[i], y[i], ball(eps), loss="margin")[0])
        said.append(f"ε = {eps:g}\n{short[scores(cvae, rows[-1][None]).argmax()]}")
_ = figures.image_grid(torch.stack(rows).cpu(), said, columns=6, row_titles=list(by_row))

# %% [markdown]
# In the first row the eye sees nothing. In the second something grows on the image: at the quick profile, the shaft of a boot
# on a sneaker. In the third flat patches appear all over, and the shaft among them. A morph is the second row. We do not know
# which the document used. Its numbers are those of its $\ell_\infty$ grid, our third row.
#
# What grows there? For this classifier one can say it exactly. With $p$ the nearest picture of the true class and $r$
# that of the runner-up, the margin is $\lVert x - p\rVert^2 - \lVert x - r\rVert^2$, and its gradient is $2(r - p)$. One
# step of FGM adds the other class's picture and takes away its own. The attack *is* a morph.

# %%
with frozen_noise(cvae, seed):
    d = squared_distances(x[i], cvae.pictures(x[i]))[0]  # (K, C)
    nearest = cvae.pictures(x[i])[d.argmin(0), torch.arange(10)]  # (C, 1, 28, 28)
    inside = x[i].clone().requires_grad_()
    table = cvae(inside)[0]
    rival = table.detach().scatter(0, y[i], -1e9).argmax()
    (g,) = torch.autograd.grad(table[rival] - table[y[i][0]], inside)
torch.testing.assert_close(
    g[0], 2 * (nearest[rival] - nearest[y[i][0]]), atol=1e-4, rtol=1e-4
)
print(f"from {short[y[i][0]]} to {short[rival]}")

# %% [markdown]
# The document calls this "natural": the CVAE compares pixels "without the extra step of doing inference". And it says that at
# $\epsilon = 0.2$ one sees the attack already. That fits neither $\ell_2$ row (in the one nothing is seen, in the other there
# is no 0.2), and it fits the third.

# %% [markdown]
# ## What it costs
#
# One gradient of `cnn` is one pass through one network. One gradient of `cnn-vae` decodes a picture for every class and every
# sample: $C \times K$ of them, 100 in the document. It reports 38 to 50 times the seconds for whole attacks (Table 3).
#
# Part of that price is voluntary, and more of it the larger $K$ is. To be fooled, an image needs *one* wrong class to win.
# The margin needs two classes, the true one and the strongest rival; `attacks.pgd` with `loss="margin"` scores just those
# two, and looks for the rival again every ten steps, with three samples a class. So count first.

# %%
C, K = 10, cnn_vae.samples
looks = {"all classes": C * K, "two classes, mean of 10 steps": 2 * K + C * min(3, K) / 10}
for name, pictures_painted in looks.items():
    print(f"{name:30} {pictures_painted:5.0f} pictures a step, K = {K}")


def seconds(attack, model, repeats=2, **options):
    """The quicker of two attacks on the same 8 images."""
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        with frozen_noise(model, seed):
            attack(model, x[:8], y[:8], Linf(0.1), **options)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


# %% [markdown]
# Now the clock. Each bar is a ratio to `cnn` under the same attack, taken here and now, on eight images. PGD takes ten
# steps and does not stop early.

# %%
ways = {
    "FGSM": (attacks.fgsm, {}),
    "PGD, all classes": (attacks.pgd, {"steps": 10, "stop_when_fooled": False}),
    "PGD, two classes": (
        attacks.pgd,
        {"steps": 10, "stop_when_fooled": False, "loss": "margin"},
    ),
}
models = {"cnn-vae": cnn_vae, "cnn-vae-binary": binary, "cnn-vae-crf": crf}
ratio = {}
for way, (attack, options) in ways.items():
    plain = seconds(attack, cnn, **options)
    for name, model in models.items():
        ratio[name, way] = seconds(attack, model, **options) / plain
here = pd.Series(ratio).unstack().reindex(index=models, columns=ways)
axis = here.plot.barh(figsize=(6.2, 2.8), width=0.75)
axis.invert_yaxis()
axis.set(xlabel="seconds, as a multiple of cnn", title=f"here and now, K = {K}")
_ = axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))

# %%
print(here.round(0).astype(int).to_string())
crf_extra = (here.loc["cnn-vae-crf"] / here.loc["cnn-vae-binary"]).mean()
print(f"\nthe field adds {100 * (crf_extra - 1):.0f} % to cnn-vae-binary")

# %% [markdown]
# A generative classifier is dearer, by a factor that grows with $K$. The document adds that this "makes gradient-based
# attacks much harder to perform". An attacker pays it once for every image; whoever uses the classifier pays it for every
# image, too. Nobody is safe because of a bill that others can pay, and C&W, which the document gave up on, is done in chapter
# 06.

# %% [markdown]
# ## At full scale
#
# From here on the chapter shows recorded runs, on the document's data: MNIST, 60,000 training images. The dense models are
# the document's as far as it describes them. The networks of the convolutional ones are Deep Bayes', and at the `cpu` profile
# ours have half their width, so none of those gets "reproduced". The four models that take many samples for an answer get 300
# images for the tables, 100 for the curves and 200 for the adaptive protocol (50 for AutoAttack); the others 1,000, 1,000 and
# 500.
#
# First, the accuracy on clean images that the document states, and ours.

# %% tags=["recorded"]
dense = ["cvae", "nn", "vae-classifier", "vae-classifier-pretrained"]
convolutional = ["cnn-vae", "cnn-vae-binary", "cnn-vae-crf", "cnn", "cnn-binary"]
recorded = results.load(document="zoo").query("data == 'mnist' and variant == ''")
best = next((p for p in ("paper", "cpu") if p in set(recorded.profile)), "")  # the larger
recorded = recorded[recorded.profile == best]
order = [*dense, "cvae@rule=mse", *convolutional, "cnn-mrf"]
published = recorded.protocol == "as_published"
recorded = recorded[published | recorded.attack.isin(["pgd-margin", "worst-case"])]
recorded = recorded[recorded.model.isin(order)]
recorded = recorded.sort_values("model", key=lambda m: m.map(order.index), kind="stable")
clean = recorded[(recorded.metric == "clean_accuracy") & (recorded.attack == "none")]
report.rates(clean, "metric")

# %% [markdown]
# The document has 88.4 for `cvae`, about 20 points less for its other rule (`cvae@rule=mse`), 96 to 97 for `nn` and `cnn` in
# section 2.4, and "above 97" for the convolutional five in section 2.6. The plain `cnn` cannot be both at most 97 and above
# it; the first sentence speaks of binarised images, the second does not. Ours has the 88 % of `cvae` and more than 97 % in
# both plain networks; of the five `cnn-vae` stays just short, at 96. Its other rule costs 14 points, not 20.

# %%
claims = results.claims()
tables = claims[(claims.document == "zoo") & claims.locator.isin(["Table 1", "Table 2"])]
printed = tables[tables.attack.isin(["fgsm", "pgd"])].set_index(["model", "eps", "attack"])
printed = printed.value.to_dict()
family = printed["cnn-vae", 0.3, "pgd"], printed["cnn", 0.3, "pgd"]
print(f"Table 1, PGD at 0.3: cnn-vae {family[0]}, cnn {family[1]}")
assert printed["cvae", 0.5, "pgd"] < printed["vae-classifier-pretrained", 0.5, "pgd"]
assert printed["cnn-vae-binary", 0.5, "pgd"] > printed["cnn-vae-binary", 0.5, "fgsm"]

if best == "cpu":
    right = clean.groupby("model").value.mean()
    assert abs(right["cvae"] - 0.884) < 0.02
    assert abs(right["cnn-vae"] - 0.964) < 0.01
    assert right[["nn", "cnn"]].min() > 0.97
    assert 0.10 < right["cvae"] - right["cvae@rule=mse"] < 0.18

# %% [markdown]
# Next, Tables 1 and 2, the columns with gradients. For each model and attack: what is printed, and what the document's
# attack left of ours. On the right, what the whole adaptive protocol left. Two things to notice in what is printed; the
# cell above asserts both. Under PGD at 0.5 the CVAE has 0.0 and its pre-trained twin 0.9, which "before all ... dropped to
# near zero" covers. And at 0.5 `cnn-vae-binary` keeps 21.0 % under 40 steps of PGD and 12.6 % under one step of FGSM: an
# attack that is stronger on paper did less, a sign of noise or of masked gradients.

# %% tags=["recorded"]
seeds = sorted(recorded.seed.unique())
if not seeds:
    print(results.NOT_RUN)
accuracies = recorded[(recorded.metric == "accuracy") & (recorded.norm == "linf")]
print(f"accuracy in per cent, linf; –: {results.NOT_RUN}")
for number, eps in [(number, eps) for number in seeds for eps in (0.3, 0.5)]:
    rows = accuracies[(accuracies.seed == number) & (accuracies.eps == eps)]
    said = {(model, attack): v for (model, e, attack), v in printed.items() if e == eps}
    attacks_shown = ["fgsm", "pgd", "worst-case"]
    table = report.beside(rows, said, [*convolutional, *dense], attacks_shown)
    display(table.rename_axis(f"ε = {eps:g}, seed {number}"))

# %% [markdown]
# The dense family first. Our CVAE keeps more than printed at 0.3, and more than its twins. The worst case leaves 6 %.
# So look at 0.1, below and in the curves: there the worst case leaves the CVAE three images in four, and its twins one in
# five and hardly any. So "CVAE always has higher classification accuracies" is more than a weak attack, as long as the radius
# is small. The plain network is "always worse" than the VAE classifier, says the document. Under FGSM at 0.1 ours are level.
#
# The convolutional family next. `cnn-binary` withstands 0.1 and most of 0.3 even in the worst case, and keeps nothing at
# 0.5: the cliff from above. The two binary CNN-VAEs tell the same story. Their worst case leaves more than nine images in
# ten at 0.1, about two in three at 0.3, and none at 0.5. What the three have in common is not that they draw, but the
# threshold. `cnn-vae` is far from its row in Table 1.

# %% tags=["recorded"]
tenth = recorded.query("metric == 'accuracy' and norm == 'linf' and eps == 0.1")
tenth = tenth[tenth.attack.isin(["fgsm", "pgd", "worst-case"])]
words = [report.percent(row.value, row.low, row.high) for row in tenth.itertuples()]
table = tenth.assign(cell=words).pivot_table(
    "cell", ["model", "seed"], "attack", "first", sort=False
)
table = table.reindex(columns=["fgsm", "pgd", "worst-case"])
table.fillna(results.NOT_RUN) if len(table) else results.NOT_RUN


# %%
left = partial(report.left, recorded)
if best == "cpu":
    assert left("cvae", "fgsm", 0.3) > 0.15 > 0.1 > left("cvae", "worst-case", 0.3)
    assert left("cvae", "worst-case", 0.1) > 0.65
    for twin in ("vae-classifier", "vae-classifier-pretrained"):
        assert left(twin, "worst-case", 0.1) < 0.3
        assert left(twin, "fgsm", 0.3) < left("cvae", "fgsm", 0.3)
    assert abs(left("nn", "fgsm", 0.1) - left("vae-classifier", "fgsm", 0.1)) < 0.05
    for name in ("cnn-binary", "cnn-vae-binary", "cnn-vae-crf"):
        assert left(name, "worst-case", 0.1) > 0.9
        assert 0.6 < left(name, "worst-case", 0.3) < 0.75
        assert left(name, "worst-case", 0.5) < 0.02

# %% [markdown]
# Why so far? Our network has half the width. And the released code does not attack what its text describes. It asks the
# likelihood about a *detached* copy of the image, so gradients come through the guide alone, and it climbs through a
# softmax of the scores. The next table repeats the attacks in that way, on the same weights. Printed for 0.3 and 0.5 are
# 82.1 and 47.4 under FGSM, 67.8 and 23.7 under PGD.

# %% tags=["recorded"]
everything = results.load(document="zoo").query("data == 'mnist'")
part = everything.query("model == 'cnn-vae' and profile == @best and metric == 'accuracy'")
part = part[(part.protocol == "as_published") & (part.norm == "linf")]
part = part[part.attack.isin(["fgsm", "pgd"])]
path = part.variant.map({"": "through the whole model", "code": "as in the code"})
words = [report.percent(row.value, row.low, row.high) for row in part.itertuples()]
table = part.assign(cell=words, gradient=path).pivot_table(
    "cell", ["seed", "gradient", "attack"], "eps", "first", sort=False
)
if not (part.variant == "code").any():
    print(f"as in the code: {results.NOT_RUN}")
table if len(table) else results.NOT_RUN

# %% [markdown]
# Attacked as in the code, our network comes within five points of the document's FGSM numbers at both radii, and of PGD's at
# 0.5; at 0.3 PGD leaves ours eleven points less than printed. Attacked through the whole model, FGSM leaves 28 % at 0.3, and
# PGD 4. So the best non-binary FGSM number of Table 1 shows no robust model: a network like it gives that number to an attack
# that is kept from looking. What does stand is at 0.1: there
# even the worst case leaves the CNN-VAE four images in five, and the CNN one in five.

# %%
if best == "cpu":
    assert left("cnn-vae", "fgsm", 0.3) < printed["cnn-vae", 0.3, "fgsm"] - 0.3
    assert left("cnn-vae", "pgd", 0.3) < printed["cnn-vae", 0.3, "pgd"] - 0.3
    code = part.query("variant == 'code' and attack == 'fgsm'").set_index("eps").value
    for eps in (0.3, 0.5):
        assert abs(code[eps] - printed["cnn-vae", eps, "fgsm"]).max() < 0.06
    assert 0.75 < left("cnn-vae", "worst-case", 0.1) < 0.9
    assert left("cnn-vae", "worst-case", 0.3) < 0.05 < 0.15 < left("cnn", "worst-case", 0.1)

# %% [markdown]
# Figure 4 of the document has a panel for each attack. Here are those with gradients, and beside them the third column: PGD
# on the margin, frozen noise first, fresh noise after. Crosses are the tables' numbers. A line that is missing has not been
# run. First the dense family, then the convolutional one. Look at whether a line that is high on the left is still high on
# the right.


# %% tags=["recorded", "hide-input"]
PANELS = {
    ("linf", "fgsm"): "FGSM, as published",
    ("linf", "pgd"): "PGD, as published",
    ("linf", "pgd-margin"): "margin PGD, adaptive",
    ("l2", "fgm"): "FGM, as published",
    ("l2", "pgd"): "PGD, as published",
    ("l2", "pgd-margin"): "margin PGD, adaptive",
}


def draw_panel(axis, norm, attack, family, number):
    part = recorded.query("metric == 'accuracy' and norm == @norm and attack == @attack")
    part = part[part.seed == number]
    for k, name in enumerate(family):
        rows, look = part[part.model == name].sort_values("eps"), {"color": f"C{k}"}
        axis.plot(rows.eps, rows.value, "osD^v"[k] + "-", **look)
        axis.fill_between(rows.eps, rows.low, rows.high, alpha=0.15, lw=0, **look)
        if norm == "linf":
            said = {eps: printed.get((name, eps, attack), math.nan) for eps in (0.3, 0.5)}
            axis.plot(list(said), list(said.values()), "x", ms=8, mew=2, **look)
    if not part.model.isin(family).any():
        axis.text(0.5, 0.5, results.NOT_RUN, ha="center", transform=axis.transAxes)


# %% tags=["recorded", "hide-input"]
def figure_four(family, number):
    figure, axes = plt.subplots(2, 3, figsize=(7, 3.8), sharey=True)
    for axis, ((norm, attack), title) in zip(axes.flat, PANELS.items(), strict=True):
        draw_panel(axis, norm, attack, family, number)
        ball, reach = (r"\infty", (0.05, 0.55)) if norm == "linf" else ("2", (0.5, 5.5))
        axis.set(
            title=rf"$\ell_{ball}$: {title}", xlabel="ε", xlim=reach, ylim=(-0.03, 1.03)
        )
        axis.title.set_size(8)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    lines = [Line2D([], [], color=f"C{k}", marker="osD^v"[k]) for k in range(len(family))]
    cross = Line2D([], [], color="black", marker="x", ls="", ms=8, mew=2)
    names = [*family, "document"]
    figure.legend([*lines, cross], names, loc="outside lower center", ncols=3)
    figure.suptitle(f"seed {number}" if number else "")


for number in seeds or [0]:
    for family in (dense, convolutional):
        figure_four(family, number)

# %% [markdown]
# Among the dense models the order on the right is the order on the left, in both rows: the CVAE first, the pre-trained twin
# next, and then two that fall alike. `cnn-binary` stays on top of `cnn`. In $\ell_\infty$ the lines sink towards the right,
# and not all of them a little. `cnn-vae` falls at 0.3 from 28 % under FGSM to 2, and the two binary CNN-VAEs at 0.4 from
# four images in five to 34 and 43 %; what the document's attacks leave of them at 0.5, a fifth to a third, is gone. In
# $\ell_2$ it is more. As published the two keep at least three images in four at 5, far above `cnn-binary`. On the margin
# next to nothing is left of all three. At 3 `cnn-vae-binary` is still ahead of `cnn-binary`, by ten points with an interval
# from one to nineteen. The attack on the left did not see well.

# %%
if best == "cpu":
    for attack in ("fgsm", "pgd", "pgd-margin"):
        at = {name: left(name, attack, 0.2) for name in [*dense, "cnn", "cnn-binary"]}
        pretrained = at["vae-classifier-pretrained"]
        assert at["cvae"] > pretrained > max(at["nn"], at["vae-classifier"])
        assert at["cnn-binary"] > at["cnn"]
    assert left("cvae", "pgd-margin", 0.2) > 0.35
    in_l2 = recorded.query("norm == 'l2' and eps == 5 and metric == 'accuracy'")
    in_l2 = in_l2.pivot_table("value", "model", "attack")
    drawn = in_l2.loc[["cnn-vae-binary", "cnn-vae-crf"]]
    assert drawn["pgd"].min() > 0.7 > 0.1 > drawn["pgd-margin"].max()
    assert in_l2.loc["cnn-binary", "pgd"] < 0.2
    assert left("cnn-vae", "pgd-margin", 0.3) < 0.05 < 0.2 < left("cnn-vae", "fgsm", 0.3)
    for name in drawn.index:
        assert left(name, "pgd-margin", 0.4) < 0.5 < 0.7 < left(name, "fgsm", 0.4)
        assert left(name, "pgd-margin", 0.5) < 0.01 < 0.15 < left(name, "pgd", 0.5)

# %%
if best == "cpu":
    at_3 = recorded.query(
        "norm == 'l2' and attack == 'pgd-margin' and metric == 'accuracy'"
    )
    at_3 = at_3[at_3.eps == 3].set_index("model", drop=False)
    first, second = (
        results.outcomes_of(at_3.loc[name]) for name in ("cnn-vae-binary", "cnn-binary")
    )
    ahead = paired_difference(first, second, "accuracy", 3.0)
    print(f"in l2 at 3, on the margin: cnn-vae-binary less cnn-binary {ahead}")
    assert 0 < ahead.low < 0.02

# %% [markdown]
# ## The verdict
#
# Each sentence of the document stands for several comparisons of two models, or of one model at two radii. They are made on
# the images that both have, with a 95 % interval for paired shares {cite}`agresti2005simple`. An order *stands* if the
# whole interval is on its side of zero, *does not stand* if the interval excludes a lead of two points, else it is
# *undecided*. For models that are the document's own, the left column says *reproduced* or *differs* instead. (Chapter 01
# has the rule for numbers, and says what a stand-in is.) "Changes nothing" stands if the difference is surely under five
# points. Left by the document's attacks, right by the worst case of the protocol. The first four rows are this chapter's
# share of "generative models are more robust"; chapters 01 and 06 have the others.


# %% tags=["recorded"]
def in_words(claim):
    if claim.model == claim.versus:
        return "binary models lose accuracy from 0.3 to 0.5"
    if claim.relation == "=":
        return "the CRF changes nothing"
    if claim.model == "cvae":
        return "CVAE keeps more than its two twins"
    return f"CNN-VAE family keeps more than CNN family ({claim.reading})"


board = results.scoreboard(document="zoo", chapter="03")
orders = board[(board.kind == "order") & (board.metric == "accuracy")]
with pd.option_context("display.max_colwidth", None):
    display(report.verdicts(orders, in_words))

# %% [markdown]
# The lead of the CVAE over its twins at 0.3 is reproduced, and it stands by the worst case, by six points. At 0.5 FGSM
# still shows a lead of three to five points, PGD none, and the worst case leaves nothing to compare. (The document speaks
# of radii "before all ... dropped to near zero", so the row at 0.5 is ours.) And a binary model does drop from 0.3 to 0.5,
# whoever attacks.
#
# The CNN-VAE family does not keep more than the CNN family as soon as both have a threshold. In the worst case at 0.3
# `cnn-vae-binary` is eleven points *behind* `cnn-binary`, on the 200 images that both have. And does the field change
# nothing? It is ahead by six points there, with an interval from one to eleven, and by two under the document's FGSM. These
# are too few images to call it nothing.

# %%
if best == "cpu":
    behind = left("cnn-binary", "worst-case", 0.3) - left(
        "cnn-vae-binary", "worst-case", 0.3
    )
    assert 0.02 < behind < 0.15
    gain = left("cnn-vae-crf", "worst-case", 0.3) - left(
        "cnn-vae-binary", "worst-case", 0.3
    )
    assert 0.03 < gain < 0.09
    for twin in ("vae-classifier", "vae-classifier-pretrained"):
        lead = left("cvae", "worst-case", 0.3) - left(twin, "worst-case", 0.3)
        assert 0.02 < lead < 0.1
    assert left("cvae", "worst-case", 0.5) < 0.02

# %% [markdown]
# The same, opened: each line is one pair, and the difference of their accuracies. To the right of zero the first one keeps
# more. Two blue dots on a line are FGSM and PGD; where their intervals meet, they look like one. Where a model is compared
# with itself there is no line.

# %% tags=["recorded"]
_ = report.differences(orders[orders.relation != "="], "difference of accuracies")

# %% [markdown]
# And the numbers one by one: how many of the printed ones our runs reproduce, and how many would be kept by an attacker who
# tries harder. A run that stands in for the document's has no verdict on its number.


# %% tags=["recorded"]
def by_kind(claim):
    return (
        "clean accuracy"
        if claim.metric == "clean_accuracy"
        else f"{claim.attack}, {claim.locator}"
    )


numbers = board[
    board.kind.isin(["level", "bound", "gap"]) & (board.metric != "attack_seconds")
]
with pd.option_context("display.max_colwidth", None):
    display(report.verdicts(numbers, by_kind))

# %% [markdown]
# Last, the cost. Table 3 does not say how many images it timed, so its seconds cannot be compared, but its ratios can: 38 to
# 50. These were timed in turns, on one core, at $K = 10$: the direct way, the two-class way, and what the field and the
# denoiser add.

# %% tags=["recorded"]
timed = report.timings("cost")
timed[""] = timed.case + " / " + timed.reference
table = timed.set_index(["timed", ""])[["ratio"]].round(1)
with pd.option_context("display.max_colwidth", None):
    display(table if len(table) else results.NOT_RUN)

# %% [markdown]
# When this was written, on a CPU, the direct way took more than a hundred times the seconds of `cnn`, and two classes about
# a third of that. So the direct way costs two to three times what Table 3 says, and two classes about what it says for all.
# The field added a tenth. The denoiser nearly doubled the price of its CNN.

# %% [markdown]
# ## Exercises
#
# A check stands under each stub. The solutions are hidden; open them when you are done.
#
# **1. Another threshold.** (easy, 5 minutes) Write a threshold at $t$ with a straight-through gradient, in one line and
# without a class. (Think, unchecked: from which $\epsilon$ on is a black pixel in danger, and from which a white one?)


# %%
def threshold_at(x, t):
    return None  # your code here


def check_threshold(answer):
    for t in (0.2, 0.5, 0.9):
        inside = x[:4].clone().requires_grad_()
        out = answer(inside, t)
        assert torch.equal(out.detach(), (x[:4] >= t).float())
        (g,) = torch.autograd.grad((out * weight).sum(), inside)
        torch.testing.assert_close(g, weight)
        black = torch.zeros(1, 1, 28, 28, device=device)
        assert answer(black + t - 0.01, t).sum() == 0 < answer(black + t, t).sum()


if threshold_at(x, 0.5) is not None:
    check_threshold(threshold_at)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution: a black pixel needs t, a white one more than 1 - t. At 0.5 both are as far away as can be.
def threshold_at_solution(x, t):
    return (x >= t).to(x.dtype) + (x - x.detach())


check_threshold(threshold_at_solution)

# %% [markdown]
# **2. One dial for three rules.** (medium, 10 minutes) Give pixels a spread $\sigma$ instead of $1/\sqrt2$. Bayes' score, in
# units of squared distance, is $2\sigma^2 \log\frac1K\sum_k \exp(-d_k / 2\sigma^2)$. Show that it contains the other
# two rules: small $\sigma$ gives one, large $\sigma$ the other.


# %%
def dial(d, sigma):
    return None  # your code here: (B, C) from distances (B, K, C)


def check_dial(answer):
    d = squared_distances(x[:20], pictures[:100]).double()
    torch.testing.assert_close(answer(d, 0.05), -d.amin(1), atol=0.05, rtol=0)
    torch.testing.assert_close(answer(d, 1e3), -d.mean(1), atol=0.05, rtol=0)
    torch.testing.assert_close(answer(d, math.sqrt(0.5)), rules["Bayes"](d))
    for small, large in ((0.1, 0.7), (0.7, 5.0)):
        assert (answer(d, small) >= answer(d, large) - 1e-6).all()


if dial(squared_distances(x[:2], pictures[:3]), 1.0) is not None:
    check_dial(dial)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution
def dial_solution(d, sigma):
    K = d.shape[1]
    return 2 * sigma**2 * (torch.logsumexp(-d / (2 * sigma**2), 1) - math.log(K))


check_dial(dial_solution)

# %% [markdown]
# **3. The cliff, looked at closely.** (medium, 15 minutes) Attack black and white images with PGD at exactly
# $\epsilon = 0.5$. Count how many pixels the model sees lit that were black, and how many it sees black that were lit.
# Guess first.


# %%
def count_flips(before, after):
    return None  # your code here: two whole numbers, lit and put out


def check_flips(answer):
    ball = Linf(0.5)
    tried = attacks.pgd(cnn_binary, white, labels, ball, steps=10, stop_when_fooled=False)
    lit, put_out = answer(white, tried)
    changed = (binarise(tried) != white).sum().item()
    print(f"lit: {lit}, put out: {put_out}")
    assert lit + put_out == changed
    assert put_out == 0 < lit
    assert tuple(answer(white, 1 - white)) == ((white == 0).sum(), (white == 1).sum())


if count_flips(white, white) is not None:
    check_flips(count_flips)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution: 1 - 0.5 is 0.5, and that still counts as lit. At 0.5 an attacker can only add light.
def count_flips_solution(before, after):
    was, now = binarise(before), binarise(after)
    return ((was == 0) & (now == 1)).sum().item(), ((was == 1) & (now == 0)).sum().item()


check_flips(count_flips_solution)

# %% [markdown]
# **4. A certificate.** (hard, 25 minutes) For fixed pictures the rule of the nearest can promise something. Let $p$ be the
# nearest picture of all, of class $c$. To be fooled, an image must come nearer to some picture $r$ of another class than
# to $p$. The points equally far from $p$ and $r$ form a plane, and its distance from $x$ is
# $(\lVert x - r\rVert^2 - \lVert x - p\rVert^2)\,/\,2\lVert r - p\rVert$. The smallest of these over all $r$ is a radius
# within which *no* $\ell_2$ attack can change the answer. Compute it. How far is it from what FGM finds?


# %%
with frozen_noise(cvae, seed):
    drawn = cvae.pictures(x)  # (K, C, 1, 28, 28): the pictures that the frozen model uses


def certified(image, drawn):
    return None  # your code here: one number for an image (1, 28, 28)


def fools(image, now, eps):
    tried = attacks.fgm(cvae, image, now, L2(eps), loss="margin")
    return (cvae(tried).argmax(1) != now).item()


# %%
def check_sharp(image, radius):
    """Just inside the radius no other picture is nearer, just outside one is."""
    image, painted = image.double(), drawn.double()
    d = squared_distances(image, painted)[0]
    k, c = divmod(d.argmin().item(), d.shape[1])
    others = painted[:, torch.arange(10, device=device) != c].flatten(0, 1)
    way = others - painted[k, c]
    way = way / way.flatten(1).norm(dim=1)[:, None, None, None]
    for times, nearer in ((0.999, False), (1.001, True)):
        moved = image + times * radius * way
        gain = (moved - painted[k, c]).square() - (moved - others).square()
        assert (gain.flatten(1).sum(1) > 0).any() == nearer


# %%
def check_certified(answer):
    with frozen_noise(cvae, seed):
        for image in x[:4, None]:
            radius, now = float(answer(image[0], drawn)), cvae(image).argmax(1)
            check_sharp(image, radius)
            ball = L2(0.999 * radius)
            tried = attacks.pgd(cvae, image, now, ball, steps=30, loss="margin")
            assert radius > 0
            assert cvae(tried).argmax(1) == now
            tries = (radius * times for times in torch.linspace(1, 8, 40).tolist())
            found = next((eps for eps in tries if fools(image, now, eps)), math.inf)
            print(f"certified {radius:.2f}, FGM fools at {found:.2f}")


if certified(x[0], drawn) is not None:
    check_certified(certified)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution
def certified_solution(image, drawn):
    d = (image - drawn).square().flatten(2).sum(2)  # (K, C)
    k, c = divmod(d.argmin().item(), d.shape[1])
    apart = (drawn - drawn[k, c]).flatten(2).norm(dim=2)
    others = torch.arange(d.shape[1], device=d.device) != c
    return ((d - d[k, c]) / (2 * apart))[:, others].min()


check_certified(certified_solution)

# %% [markdown]
# ## Summary
#
# A VAE that is told the class can be asked which class paints an image best; random codes answer roughly, a guide answers
# well, and the document's text and its code mean different ones of these. A threshold in front of a network protects black
# and white images below 0.5 and nothing at 0.5, which says much about the radius and little about the model. Generative
# classifiers cost tens of times more at $K = 10$, because they are asked once for every class and sample.
#
# **Sources.** The VAE: {cite}`kingma2014vae`. With a label: {cite}`sohn2015learning`. The CNN-VAE:
# {cite}`li2019generative`. The borrowed gradient: {cite}`bengio2013estimating`, and as an attack
# {cite}`athalye2018obfuscated`. A VAE for each class of MNIST, and an honest evaluation of it:
# {cite}`schott2019towards`. The document: {cite}`zoo`.
#
# **Where next.** Chapter 04 takes the CNN-VAE's formula apart, and six others. Chapter 05 builds the attacks, chapter 06
# those without gradients, and chapter 07 asks what is left of all of them.
