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
# # The causal information bottleneck
#
# Adversarial training pays for robustness with attacks, many of them, in every step. Can a network become robust without
# ever seeing an attack? One idea is to let it keep less of the image. Another is to ask which of its features *cause* its
# answer. The document `causalib` {cite}`causalib` joins the two.
#
# **You will** build the variational information bottleneck, VIB, from its definition, see an instrument recover a true
# cause where regression fails, build CausalIB out of both, and measure what they resist. On the way you meet randomised
# smoothing, which can prove its claims, and CiiV, which surprises. **You need** chapters 07 and 09. **It takes** an hour
# and a half to read; the cells run in under a minute.
#
# The claim, for a network of three dense layers under attacks in $\ell_\infty$ of radius 50/255 (its Table 1, accuracy in
# per cent):
#
# | trained by | MNIST, clean | FGSM | PGD-20 | Fashion-MNIST, clean | FGSM | PGD-20 |
# | --- | --- | --- | --- | --- | --- | --- |
# | cross-entropy | 95.11 | 6.76 | 0.0 | 89.81 | 0.63 | 0.0 |
# | mixup | 98.22 | 20.66 | 0.43 | 90.44 | 9.13 | 0.11 |
# | noise (smoothing) | 98.45 | 34.15 | 13.38 | 89.71 | 13.57 | 1.30 |
# | CiiV | 97.94 | 71.80 | 48.48 | 94.84 | 44.82 | 15.01 |
# | VIB | 98.70 | 66.06 | 41.84 | 94.42 | 25.88 | 3.98 |
# | **CausalIB** | **98.85** | **81.07** | **53.71** | 94.06 | **50.81** | 14.06 |
# | attacks (PGD-20) | 93.92 | 78.31 | 69.84 | 87.22 | 56.43 | 41.87 |
#
# CausalIB "shows the best overall performance in all methods without the utilization of adversarial training". Four checks
# "testify that the proposed CausalIB does not suffer from the problem of gradient obfuscation" (section 4.6). The models
# with noise are attacked without averaging over it. You know from chapter 07 why that asks for a second look.

# %% tags=["parameters"]
profile = "quick"
seed = 0
data_root = ""
device = "auto"

# %%
import copy
import math
from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.utils.capture import capture_output
from matplotlib.patches import Ellipse
from scipy.stats import beta as beta_distribution
from torch import nn
from torch.distributions import Normal, kl_divergence

# %%
from hybridgen_lib import (
    attacks,
    data,
    evaluation,
    figures,
    recipes,
    report,
    results,
    training,
)
from hybridgen_lib.attacks import L2, Linf
from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.measurement import paired_difference
from hybridgen_lib.models.bottleneck import Bottleneck
from hybridgen_lib.models.factorization import Factorization
from hybridgen_lib.models.networks import DenseNetwork
from hybridgen_lib.models.smoothing import certified_radius

# %%
figures.use_style()
torch.backends.cudnn.deterministic = True  # on a GPU, too, equal calls give equal scores
torch.backends.cudnn.allow_tf32 = False
device = recipes.choose_device(device)
fashion = data.load(
    "fashion-mini" if profile == "quick" else "fashion-mnist", data_root or None
)
x = data.as_float(fashion.test_x[:200]).to(device)
y = fashion.test_y[:200].to(device)
load_model = partial(
    recipes.trained, data=fashion, profile=profile, seed=seed, device=device
)


def generator():
    """Equal noise for all who are to be compared."""
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## What a bottleneck lets through
#
# Let $Z$ be a noisy code of an image $X$. How much does it tell about the image? The *mutual information* $I(Z;X)$ says it
# in nats: how much smaller the uncertainty about $X$ is, on average, once $Z$ is known. A bottleneck wants a code that
# tells much about the label and little about the image:
#
# $$\mathcal{L}_{IB} = -I(Z;Y) + \alpha\, I(Z;X).$$
#
# The label depends on the image, the code on the image, and on nothing else. (A dashed square is given; chapter 04.) On the
# right is what CausalIB adds: noise $r$ moves the code to $v$ before the class is read off.

# %%
figure, axes = plt.subplots(1, 2, figsize=(5.2, 2.2))
figures.draw_graph(Factorization.parse("p(x) p(y|x) p(z|x)"), axis=axes[0])
formula = "p(x) p(z|x) p(r) p(v|z,r) p(y|v)"
_ = figures.draw_graph(Factorization.parse(formula), observed=("x", "y", "r"), axis=axes[1])

# %% [markdown]
# Neither information can be computed for images. Both can be bounded. With any $r(z)$ in place of the true distribution of
# codes,
#
# $$I(Z;X) = \mathbb{E}_x\, \mathrm{KL}\big[q(z|x)\,\|\,p(z)\big] \le \mathbb{E}_x\, \mathrm{KL}\big[q(z|x)\,\|\,r(z)\big],$$
#
# and the gap is $\mathrm{KL}[p(z)\|r(z)]$. Test it where the truth is known. Let $x \sim N(0, 1)$ and
# $z = x + \sigma\varepsilon$. Then $p(z) = N(0, 1 + \sigma^2)$ and $I(Z;X) = \frac12 \log(1 + 1/\sigma^2)$.

# %%
sigmas = torch.logspace(-1, 1, 30)
many = torch.randn(100_000, 1, generator=generator())
q = Normal(many, sigmas)  # q(z|x) for each x and each sigma
truth = 0.5 * torch.log1p(1 / sigmas**2)
best_r = kl_divergence(q, Normal(0.0, (1 + sigmas**2).sqrt())).mean(0)
standard = kl_divergence(q, Normal(0.0, 1.0)).mean(0)
torch.testing.assert_close(best_r, truth, rtol=0, atol=0.01)
assert (standard >= truth - 0.01).all()

# %% [markdown]
# Look for where the two bounds part.

# %% tags=["hide-input"]
figure, axis = plt.subplots(figsize=(5.6, 2.5))
axis.plot(sigmas, standard, color="C1", label="bound with r(z) = N(0, 1)")
axis.plot(sigmas, best_r, "o", ms=3, color="C0", label="bound with the true p(z)")
axis.plot(sigmas, truth, color="black", lw=1, label="$I(Z;X)$")
axis.set(xscale="log", xlabel="σ of the code's noise", ylabel="nats", ylim=(0, 4))
_ = axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))

# %% [markdown]
# With the right $r(z)$ the bound is exact. With a standard Normal, which everyone uses, it is close while $\sigma$ is
# small, and far off when the noise is loud. So minimising the bound also pulls codes towards a standard Normal, whether
# that saves information or not.
#
# For the label, any classifier $q(y|z)$ gives a bound from below: $I(Z;Y) \ge \mathbb{E} \log q(y|z) + H(Y)$. (The document
# drops $H(Y)$, a constant, and in its equation 4 loses a sign on the way.) Put together, this is VIB {cite}`alemi2017deep`:
#
# $$\mathcal{L} = \mathbb{E}_{x,y}\,\mathbb{E}_{z \sim q(z|x)}\big[-\log q(y|z)\big] + \alpha\,\mathbb{E}_x\,\mathrm{KL}\big[q(z|x)\,\|\,N(0, I)\big].$$
#
# ## VIB by hand
#
# An encoder gives a mean and a sigma for each image, a code is drawn, a linear layer reads the class. All in all twelve
# lines.


# %%
class ByHand(nn.Module):
    def __init__(self, hidden, code):
        super().__init__()
        layers = [
            nn.Flatten(),
            nn.Linear(784, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
        ]
        self.encoder = nn.Sequential(*layers, nn.ReLU())
        self.mean, self.spread = nn.Linear(hidden, code), nn.Linear(hidden, code)
        self.decoder = nn.Linear(code, 10)

    def loss(self, x, y, alpha, noise):
        h = self.encoder(x)
        mean, sigma = self.mean(h), F.softplus(self.spread(h) - 5)
        z = mean + sigma * noise  # (K, B, D)
        log_q = self.decoder(z).log_softmax(-1)
        kl = 0.5 * (mean**2 + sigma**2 - 1 - 2 * sigma.log()).sum(1)
        return -log_q[:, range(len(y)), y].mean() + alpha * kl.mean()


# %%
torch.manual_seed(seed)
mine = ByHand(64, 8)
network = DenseNetwork((1, 28, 28), 10, hidden=64)
library = Bottleneck(network, 10, code=8, draws=3)
for ours, theirs in zip(mine.parameters(), library.parameters(), strict=True):
    theirs.data.copy_(ours.data)

few, few_y = x[:32].cpu(), y[:32].cpu()
noise = torch.randn(3, 32, 8, generator=generator())
by_hand = mine.loss(few, few_y, 0.1, noise)
objective = training.information_bottleneck(alpha=0.1)
by_library = objective(library, few, few_y, 0.0, generator())
torch.testing.assert_close(by_hand, by_library)

# %% [markdown]
# To see a bottleneck, make it narrow: a code of two numbers can be drawn. Four networks, four weights $\alpha$, a few
# seconds of training. Look at how far apart the classes lie, and how much of the plane the noise of one image covers: the
# average one is drawn as a grey ellipse around zero.

# %%
narrow = {}
for alpha in (0.0, 0.01, 0.1, 1.0):
    torch.manual_seed(seed)
    model = Bottleneck(DenseNetwork((1, 28, 28), 10, hidden=128), 10, code=2, draws=4)
    objective = training.information_bottleneck(alpha)
    some = fashion.train_x[:3000], fashion.train_y[:3000]
    schedule = {"epochs": 12, "batch_size": 64, "learning_rate": 2e-3, "seed": seed}
    training.fit(model, objective, *some, **schedule, label="")
    narrow[alpha] = model

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 4, figsize=(9.2, 2.6))
rates = {}
for axis, (alpha, model) in zip(axes, narrow.items(), strict=True):
    with torch.no_grad():
        q = model.encode(x.cpu())
        right = (model(x.cpu()).argmax(1) == y.cpu()).float().mean().item()
    rates[alpha] = kl_divergence(q, Normal(0.0, 1.0)).sum(1).mean().item()
    axis.scatter(*q.loc.T, c=y.cpu(), cmap="tab10", s=6)
    spread = q.scale.mean(0)
    noise = Ellipse((0, 0), *(2 * spread), color="black", alpha=0.3, lw=0)
    axis.add_patch(noise)
    reach = 1.1 * torch.maximum(q.loc.abs().amax(0), spread)
    axis.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]))
    axis.set_title(
        f"α = {alpha:g}\n{rates[alpha]:.1f} nats, {100 * right:.0f} % right", fontsize=8
    )
    axis.tick_params(labelsize=7)
figure.supxlabel("first number of the code (mean)", fontsize=9)
_ = axes[0].set_ylabel("second number", fontsize=9)

# %%
assert list(rates.values()) == sorted(rates.values(), reverse=True)
assert rates[0.1] < 0.5 * rates[0.01]

# %% [markdown]
# Without a price the code spreads over a wide plane, and the noise is a dot beside it. The higher the price, the fewer nats
# pass: the plane shrinks, the ellipse grows until neighbouring classes share it. Images of one class are pushed together.
# It sounds like robustness: if only the class is kept, what is there to attack? But nobody has told the *encoder* to be
# smooth. It only has to compress the images that there are. {cite}`korshunova2021closer` attacked VIB again, and found that
# much of its reported robustness was obfuscated gradients. The document knows this, and offers CausalIB as the answer.
#
# ## A cause that regression cannot find
#
# The second idea comes from econometrics. Let $s$ be hidden style, $x$ a feature, $y$ an outcome (left, the document's
# Figure 2):
#
# $$x = w_{sx}\, s + u_x, \qquad y = w_{xy}\, x + w_{sy}\, s + u_y .$$
#
# We want $w_{xy}$: what a change of $x$ does to $y$. Style moves both, so the slope of $y$ on $x$ is something else. An
# *instrument* $r$ helps (right, its Figure 3): it moves $x$, knows nothing of $s$, and reaches $y$ through $x$ alone.

# %%
figure, axes = plt.subplots(1, 2, figsize=(4.6, 2.2))
for axis, formula in zip(
    axes, ("p(s) p(x|s) p(y|x,s)", "p(s) p(r) p(x|s,r) p(y|x,s)"), strict=True
):
    figures.draw_graph(Factorization.parse(formula), observed=("x", "y", "r"), axis=axis)

# %% [markdown]
# Here everything is known, so we can check. The true $w_{xy}$ is 1.


# %%
def draw_world(n, w_xy=1.0, w_sx=1.0, w_sy=2.0, w_rx=1.0, source=None):
    s, u_x, u_y, r = torch.randn(4, n, generator=source)
    x = w_sx * s + w_rx * r + 0.5 * u_x
    return x, w_xy * x + w_sy * s + 0.5 * u_y, r


def slope(x, y):
    """Least squares: cov(x, y) / var(x)."""
    return ((x - x.mean()) * y).mean() / ((x - x.mean()) * x).mean()


def by_instrument(x, y, r):
    """cov(r, y) / cov(r, x)."""
    return ((r - r.mean()) * y).mean() / ((r - r.mean()) * x).mean()


worlds = [draw_world(1000, source=generator().manual_seed(k)) for k in range(300)]
least_squares = torch.stack([slope(a, b) for a, b, _ in worlds])
instrumental = torch.stack([by_instrument(*world) for world in worlds])
biased = 1 + 2 * 1 / (1 + 1 + 0.25)  # w_xy + w_sy w_sx / var(x)
error = instrumental.std() / math.sqrt(len(worlds))
assert abs(instrumental.mean() - 1) < 4 * error
assert abs(least_squares.mean() - biased) < 0.01

# %% [markdown]
# And the same with an instrument that hardly moves $x$. Look at the width of the right histogram.

# %% tags=["hide-input"]
dull = [draw_world(1000, w_rx=0.03, source=generator().manual_seed(k)) for k in range(300)]
weak = torch.stack([by_instrument(*world) for world in dull])
figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.3), sharey=True)
bins = torch.linspace(0.8, 2, 60).tolist()
axes[0].hist(least_squares, bins, color="C1", label="least squares")
axes[0].hist(instrumental, bins, color="C0", label="instrument")
axes[0].legend(loc="upper center")
axes[1].hist(weak.clamp(-10, 12), 60, color="C0")
for axis, title in zip(axes, ("a strong instrument", "a weak one"), strict=True):
    axis.axvline(1, color="black", lw=1, ls="--")
    axis.set(xlabel="estimate of $w_{xy}$ (true: 1)", title=title)
_ = axes[0].set_ylabel("of 300 worlds")

# %%
assert weak.std() > 10 * instrumental.std()
there = torch.stack([slope(a, b) for a, b, _ in dull]).mean()
print(f"a weak instrument: median {weak.median():.1f}; least squares there: {there:.1f}")
assert 1.3 < weak.median() < there

# %% [markdown]
# Least squares is sure, and wrong by 0.9 in every world. The instrument is centred on the truth. A weak one is neither
# sharp nor right: its median is 1.6. Where the instrument hardly moves $x$, what moves it by chance is style, so the ratio
# drifts to the answer of least squares, which is 2.6 in these worlds. Where its effect on $x$ happens to be near zero, the
# ratio explodes. (What lies beyond −10 and 12 is stacked in the outermost bars.) Keep this in mind for the next formula.
#
# ## The causal loss, and what is in it
#
# CausalIB makes the code's own noise the instrument. Draw $K$ codes $z_i = \mu + r_i$. In the linear model the answer
# changes by $w\,r_i$, so each draw estimates $w$, and they should agree (its equations 9 and 10):
#
# $$w_i = \frac{Y[z_i] - Y[\mu]}{r_i}, \qquad \mathcal{L}_{causal} = \sum_{i \ne j} \lVert w_i - w_j \rVert .$$
#
# Two things have to be decided. $r_i$ is a vector of 256 numbers and cannot divide ten scores; and a single entry of it
# would be a weak instrument. The text says that the *magnitude* of $r$ is "the intensity of the introduced noise". So we
# divide by one number, the root mean square of $r_i$, which for 256 entries never comes near zero. And the sum over pairs
# becomes a mean, so that $\beta$ means the same for every $K$, which the text does not give.


# %%
def causal_by_hand(scores, centre, noise):
    """scores (K, B, C) of the draws, centre (B, C) of the mean code, noise (K, B, D)."""
    w = (scores - centre) / noise.pow(2).mean(-1, keepdim=True).sqrt()
    pairs = [(i, j) for i in range(len(w)) for j in range(len(w)) if i != j]
    return torch.stack([(w[i] - w[j]).abs().sum(-1) for i, j in pairs]).mean()


q = library.encode(few)
z = library.codes(q, generator())
scores, centre = library.decoder(z), library.decoder(q.loc)
mine = causal_by_hand(scores, centre, z - q.loc)
theirs = training.causal_loss(scores - centre, z - q.loc, "l1")
torch.testing.assert_close(mine, theirs)

# %% [markdown]
# CausalIB is then VIB plus $\beta\,\mathcal{L}_{causal}$. What can this term teach? The layer behind the code is linear, so
# $Y[z_i] - Y[\mu] = W r_i$, exactly. (The library computes it so: where $r$ is tiny, a difference of two scores is nothing
# but rounding.) The mean $\mu$ has dropped out. Ask each part of the network what the causal loss wants of it.

# %%
wanted = torch.autograd.grad(theirs, list(library.parameters()), allow_unused=True)
names = [name for name, _ in library.named_parameters()]
force = {
    name: 0.0 if g is None else g.norm().item()
    for name, g in zip(names, wanted, strict=True)
}
print({name: round(value, 4) for name, value in force.items() if "weight" in name})
assert force["mean.weight"] < 1e-4 * force["decoder.weight"]  # rounding aside, nothing

# %%
scaled = training.causal_loss(
    library.decoder(q.loc + 7 * (z - q.loc)) - centre, 7 * (z - q.loc)
)
torch.testing.assert_close(scaled, theirs)  # louder noise: the same loss

# %% [markdown]
# The mean of the code feels nothing: where an image lies in the code has no part in the loss. Louder noise changes nothing
# either; the intensity cancels. What is left is the decoder $W$, and the *shape* of the noise, in which directions it is
# larger. So with a linear last layer, the causal loss is in the main a penalty on the size of $W$, and the image enters
# only through the shape of its noise. It cannot tell content from style, because where an image lies in the code is nothing
# to it. There is a deeper reason. An instrument estimates a coefficient that nobody knows. Between a code and the scores
# behind it there is no hidden style; the coefficient is $W$, and we wrote it down ourselves.
#
# The shape is also a way out. A network could put its noise into one number of the code that nobody reads. Let us do it by
# hand to a trained CausalIB: take the number that the decoder reads least, let it read that one no more, and give it a
# noise of 1,000.


# %%
def hide_the_noise(model):
    hidden = copy.deepcopy(model)
    k = hidden.decoder.weight.norm(dim=0).argmin()
    hidden.decoder.weight.data[:, k] = 0
    hidden.spread.weight.data[k] = 0
    hidden.spread.bias.data[k] = 5 + 1000  # sigma is softplus(h - 5)
    return hidden


def three_numbers(model):
    with torch.no_grad(), frozen_noise(model, seed):
        q = model.encode(x)
        r = model.code_noise(q, generator())
        right = (model(x).argmax(1) == y).float().mean()
        loss = training.causal_loss(r @ model.decoder.weight.T, r)
    nats = kl_divergence(q, Normal(0.0, 1.0)).sum(1).mean()
    return [right.item(), loss.item(), nats.item()]


trained = load_model("mlp-causalib")
both = {"as trained": trained, "noise hidden": hide_the_noise(trained)}
numbers = {name: three_numbers(model) for name, model in both.items()}
titles = ["accuracy", "causal loss", "KL, nats"]
pd.DataFrame.from_dict(numbers, "index", columns=titles).round(3)

# %%
before, after = numbers.values()
assert abs(before[0] - after[0]) <= 0.02
assert after[1] < before[1] / 10
assert after[2] - before[2] > 400_000

# %% [markdown]
# As many answers are right as before, and most of the causal loss is gone. Nothing was taught. Only one thing bars this way
# out: the price on the code, for so loud a number costs half a million nats. At $\alpha$ = 0 it is free. Remember that for
# the map of the weights, at full scale below.
#
# The released code has another loss under this name: the smooth $\ell_1$ distance between each draw of the code and the mean
# of the others, each side times the other's share of numbers within two sigmas. What does that one want?


# %%
def as_released(mean, sigma, r):
    z, share = mean + r, (r.abs() < 2 * sigma).float().mean(-1, keepdim=True)
    rest_z, rest_share = ((t.sum(0) - t) / (len(t) - 1) for t in (z, share))
    apart = F.smooth_l1_loss(z * rest_share, rest_z * share, reduction="none")
    return apart.sum(-1).mean().item()


with torch.no_grad():
    q = trained.encode(x)
    r = trained.code_noise(q, generator())
quieter = {k: as_released(q.loc, k * q.scale, k * r) for k in (1, 0.5, 0.1)}
print({f"{k} x noise": round(value, 2) for k, value in quieter.items()})
assert quieter[0.1] < quieter[0.5] / 5 < quieter[1] / 10

# %% [markdown]
# Silence. The shares are nearly equal, so the mean of the code all but cancels here as well, and what is left is the size of
# the noise. It is another loss than the text's, and it does not look for a cause either. We follow the text.
#
# So here is a prediction: CausalIB should resist as VIB does.
#
# ## Eight ways to train one network
#
# Time to measure. Beside VIB ($\alpha$ = 0.01) and CausalIB ($\alpha$ = $\beta$ = 0.05), with the document's weights, stand
# its other ways:
#
# - *mixup* {cite}`zhang2018mixup` lays pairs of images over each other, and their labels too;
# - *smoothing* {cite}`cohen2019certified` trains on noisy images and answers with the mean over noisy copies;
# - *CiiV* {cite}`tang2021adversarial` looks at black-and-white glances of the image, below;
# - adversarial training, by FGSM (from a random start, with a step of 1.25 of the radius: the repair of chapter 09) and by
#   PGD, at the radius that is then attacked.
#
# For a model with noise, the score is the logarithm of its probability, averaged over draws. CiiV first: the gaze rests at
# one of nine places. Three copies of the image are turned black and white by a *random* threshold in each pixel, masked by
# a mask that is thinner away from the gaze, and averaged.

# %%
ways = ["mlp", "mlp-mixup", "mlp-smoothing", "mlp-ciiv", "mlp-vib", "mlp-causalib"]
ways += ["mlp-at-fgsm", "mlp-at-pgd"]
models = {name: load_model(name) for name in ways}
ciiv = models["mlp-ciiv"]
gazes = torch.arange(3, device=device)
glances, kept = ciiv.glances(x[:4], gazes, generator())
smooth, _ = ciiv.surrogate().glances(x[:4], gazes, generator())
shown = torch.cat([x[:4], glances[0], glances[1], smooth[0]]).cpu()
rows = ["image", "gaze 1", "gaze 2", "mean"]
_ = figures.image_grid(shown, columns=4, row_titles=rows)

# %% [markdown]
# So much noise goes in before anything is learnt, pixel by pixel, that a change of 50/255 is a small thing beside it. The
# threshold is a step, written so that it has a gradient which says nothing; it needs a stand-in (BPDA). The last row is
# that stand-in: the threshold replaced by its mean over the noise. How much of a gradient lies in the hundredth of the
# pixels where it is largest?


# %%
def in_few_pixels(model):
    inside = x[:50].clone().requires_grad_()
    with frozen_noise(model, seed):
        loss = F.cross_entropy(model(inside), y[:50], reduction="sum")
    (g,) = torch.autograd.grad(loss, inside)
    size = g.flatten(1).abs()
    share = size.topk(size.shape[1] // 100).values.sum(1) / size.sum(1)
    return share.median().item()


concentrated = {
    name: in_few_pixels(model)
    for name, model in {"its own": ciiv, "the stand-in's": ciiv.surrogate()}.items()
}
print({name: round(share, 2) for name, share in concentrated.items()})
assert concentrated["its own"] > 2 * concentrated["the stand-in's"]

# %% [markdown]
# Of its own gradient most lies there; the stand-in's is spread over the garment.
#
# Now the attacks of the table, as published: FGSM and PGD of 20 steps on the cross-entropy, one draw of the noise, as it
# comes. And then as chapter 07 teaches it: PGD on the margin, gradients averaged over five draws, CiiV by its stand-in;
# judged on fresh draws.


# %%
def surrogate_of(model):
    return model.surrogate() if model is ciiv else None


def adapted(model, x, y, ball, *, generator):
    options = {"steps": 40, "loss": "margin", "eot": 5, "surrogate": surrogate_of(model)}
    return attacks.pgd(model, x, y, ball, generator=generator, **options)


eps = 50 / 255
pgd_20 = partial(attacks.pgd, steps=20)
tries = {"FGSM": attacks.fgsm, "PGD-20": pgd_20, "adapted": adapted}
few, few_y = x[:40], y[:40]
kept = {}
for name, model in models.items():
    for title, attack in tries.items():
        made = attack(model, few, few_y, Linf(eps), generator=generator())
        judged = evaluation.fraction_right(model, made, few_y, 5, generator())
        kept[name, title] = judged.mean().item()
    kept[name, "clean"] = evaluation.fraction_right(model, x, y, 2).mean().item()
live = pd.Series(kept).unstack().reindex(index=ways, columns=["clean", *tries])

# %% [markdown]
# Look at who keeps anything at all, and compare it with the table at the top.

# %% tags=["hide-input"]
axis = live.plot.barh(figsize=(6.6, 3.6), width=0.8)
axis.invert_yaxis()
axis.set(xlabel="accuracy left, 40 images", xlim=(0, 1), title="ε = 50/255")
_ = axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))

# %%
for name in ("mlp", "mlp-mixup", "mlp-smoothing", "mlp-vib", "mlp-causalib"):
    assert live.loc[name, ["PGD-20", "adapted"]].max() < 0.05
assert live.loc[["mlp-ciiv", "mlp-at-pgd"], "adapted"].min() > 0.1

# %% [markdown]
# Not what the document saw. VIB and CausalIB keep nothing, not even under plain FGSM; nor do mixup and smoothing. No trick
# was needed, no averaging over noise, no stand-in. Two kinds of model keep something: the two that were attacked in
# training, and CiiV. CiiV keeps as much under the adapted attack as under PGD: its threshold hides the gradient, but with a
# stand-in the attack gets no further. That is one attack on forty images, a bound from above and no verdict.
#
# Are the attacks to blame? The next figure shows what they made (the document's Figures 6 and 7 show such images).

# %%
pair = ["mlp-causalib", "mlp-vib"]
rows = [few[:8]]
for name in pair:
    made = attacks.pgd(models[name], few[:8], few_y[:8], Linf(eps), steps=20)
    with torch.no_grad(), frozen_noise(models[name], seed):
        answers = models[name](made).argmax(1)
    rows += [made]
    said = [fashion.classes[k] for k in answers]
    print(f"{name} says: {', '.join(said)}")
row_titles = ["clean", "against CausalIB", "against VIB"]
_ = figures.image_grid(torch.cat(rows).cpu(), columns=8, row_titles=row_titles)

# %% [markdown]
# The document finds the images against VIB "relatively blurry" and those against CausalIB clearer, and reads it as
# structure that was learnt. Here both are clothes under grain, and the two rows are hard to tell apart.
#
# ## The map of alpha and beta
#
# Perhaps the weights are wrong for our network? The document's Table 6 says that they matter much. Move the slider over the
# radius: each cell is a small network, trained for a second, and the number is the accuracy that PGD leaves it.

# %%
alphas, betas = [0.0, 0.01, 0.05, 0.2], [0.0, 0.05, 1.0, 6.6]
radii = [0.0, 0.01, 0.02, 0.05, 0.1]
grid = torch.zeros(len(radii), len(alphas), len(betas))
count = 2000
for i, alpha in enumerate(alphas):
    for j, weight in enumerate(betas):
        torch.manual_seed(seed)
        model = Bottleneck(DenseNetwork((1, 28, 28), 10, hidden=64), 10, code=32, draws=6)
        objective = training.information_bottleneck(alpha, weight)
        some = fashion.train_x[:count], fashion.train_y[:count]
        schedule = {"epochs": 6, "batch_size": 50, "learning_rate": 2e-3, "seed": seed}
        training.fit(model, objective, *some, **schedule, label="")
        for k, radius in enumerate(radii):
            ball = Linf(radius)
            options = {"steps": 10, "loss": "margin", "generator": generator()}
            made = attacks.pgd(model, x.cpu(), y.cpu(), ball, **options)
            grid[k, i, j] = evaluation.fraction_right(model, made, y.cpu(), 3).mean()


# %% tags=["hide-input"]
def heat(values, rows, columns, title):
    figure, axis = plt.subplots(figsize=(4.2, 3.0))
    axis.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for i, line in enumerate(values.tolist()):
        for j, value in enumerate(line):
            if math.isnan(value):
                continue
            color = "white" if value < 0.6 else "black"
            axis.text(
                j, i, f"{value:.2f}", ha="center", va="center", color=color, fontsize=8
            )
    axis.set_xticks(range(len(columns)), [f"{b:g}" for b in columns])
    axis.set_yticks(range(len(rows)), [f"{a:g}" for a in rows])
    axis.set(xlabel="β", ylabel="α", title=title)
    axis.grid(False)
    return figure


# %% tags=["hide-input", "slider"]
frames = [
    heat(grid[k], alphas, betas, f"accuracy left at ε = {radius:g}")
    for k, radius in enumerate(radii)
]
alt = "Accuracy under PGD for each weight of the bottleneck (rows) and of the causal loss (columns)"
figures.slider_figure(frames, radii, "ε", alt=alt)

# %%
assert grid[-1].max() < 0.35  # at 0.1, half of the table's radius
assert grid[3].max() > grid[3, 0, 0] + 0.05
assert grid[0, -1, -1] < grid[0, 0, 0]

# %% [markdown]
# At $\epsilon = 0$ the map shows the price: where both weights are large, the network no longer learns. The weight 6.6 is
# the document's 0.05 if its sum over pairs is taken by the letter, over the 132 ordered pairs of 12 draws. Move the slider.
# Both weights buy something: at 0.05 the best cell is some ten points above $\alpha = \beta = 0$, and at 0.1 the largest
# $\beta$ still keeps about a quarter where the corner without either keeps an eighth, at the price of clean accuracy. With
# 200 images such differences are worth five points or so. It is far from what the document prints at 0.196: 12 to 54 % in
# every cell but $\alpha = \beta = 0$.

# %% [markdown]
# ## A claim with a proof
#
# Smoothing kept nothing in $\ell_\infty$. Its promise is in $\ell_2$, and it is of another kind. Let $p_A$ be the share of
# noisy copies, noise $N(0, \sigma^2 I)$, that are given the class A. Then no image within
#
# $$R = \sigma\,\Phi^{-1}(p_A)$$
#
# gets another majority, whatever the attack {cite}`cohen2019certified`. $p_A$ is counted, so it is taken from the lower end
# of an exact interval (Clopper and Pearson): right with a probability of 99.9 %.


# %%
def radius_by_hand(wins, votes, sigma, error=0.001):
    low = beta_distribution.ppf(error, wins, votes - wins + 1)
    return sigma * Normal(0.0, 1.0).icdf(torch.tensor(low)).item() if low > 0.5 else 0.0


smoothed, first, first_y = models["mlp-smoothing"], x[:100], y[:100]
certain, radius = smoothed.certify(first, votes=500, generator=generator())
for wins in (200, 300, 450, 500):
    gap = radius_by_hand(wins, 500, 0.25) - certified_radius(wins, 500, 0.25)
    assert abs(gap) < 1e-5

# %% [markdown]
# Look at how far the proof lies below the attack.


# %%
def under_pgd(model, reach):
    options = {"steps": 20, "loss": "margin", "generator": generator()}
    made = attacks.pgd(model, first, first_y, L2(reach), **options)
    return evaluation.fraction_right(model, made, first_y, 5, generator()).mean().item()


certified_radii = torch.linspace(0, 1.0, 60)
correct = (certain == first_y).cpu()
proved = [(correct & (radius.cpu() >= r)).float().mean().item() for r in certified_radii]
attacked_at = [0.1, 0.25, 0.5, 0.75, 1.0]
curves = {
    name: [under_pgd(models[name], reach) for reach in attacked_at]
    for name in ("mlp-smoothing", "mlp")
}

# %% tags=["hide-input"]
figure, axis = plt.subplots(figsize=(6.4, 2.5))
axis.plot(certified_radii, proved, color="C2", label="smoothing, proved")
axis.plot(
    attacked_at, curves["mlp-smoothing"], "o-", color="C0", label="smoothing, under PGD"
)
axis.plot(attacked_at, curves["mlp"], "s--", color="C1", label="plain, under PGD")
axis.set(xlabel="radius in $\\ell_2$", ylabel="accuracy", ylim=(0, 1))
_ = axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))

# %%
at_half = (correct & (radius.cpu() >= 0.5)).float().mean().item()
assert at_half <= curves["mlp-smoothing"][2] + 0.05
assert curves["mlp-smoothing"][2] > curves["mlp"][2]

# %% [markdown]
# Truth lies between the green and the blue line: what is proved cannot fall, what fell cannot be proved. The green line
# ends where even 500 votes out of 500 prove no more. (The proof is about the majority of infinitely many copies, the attack
# about the mean of ten: not quite one classifier.) So there is a defence among the eight that is honest about what it can
# do: a little, in $\ell_2$, with a proof.

# %% [markdown]
# ## Four checks
#
# The document's four signs against gradient obfuscation (section 4.6) are, as code: more is left after FGSM than after PGD
# (its checks 1 and 3 are the same); more is left under a black-box attack than under a white-box one; and nothing above
# chance is left at a radius of 152/255. We run them on every model. The black box is a plain network of another seed.


# %%
def four_checks(model, source, n):
    a, b = x[:n], y[:n]

    def left(attack, victim, radius):
        made = attack(victim, a, b, Linf(radius), generator=generator())
        return evaluation.fraction_right(model, made, b, 2, generator()).mean().item()

    white = {attack: left(attack, model, eps) for attack in (attacks.fgsm, pgd_20)}
    black = {attack: left(attack, source, eps) for attack in white}
    chance = 0.1 + 0.06  # and two standard errors
    return {
        "FGSM leaves more than PGD": white[attacks.fgsm] >= white[pgd_20],
        "black box leaves more": all(black[attack] >= white[attack] for attack in white),
        "152/255 leaves chance": left(pgd_20, model, 152 / 255) <= chance,
    }


# %%
with capture_output():  # a bar of its training is not for the page
    other = load_model("mlp", seed=seed + 1)
counts = {name: 40 if model is ciiv else 100 for name, model in models.items()}
checks = {name: four_checks(model, other, counts[name]) for name, model in models.items()}
checks = pd.DataFrame(checks).T
checks.replace({True: "passes", False: "fails"})

# %%
assert checks.loc[["mlp", "mlp-vib", "mlp-causalib"]].all(axis=None)
if profile == "quick":
    assert not checks.loc["mlp-ciiv", "black box leaves more"]

# %% [markdown]
# The plain network passes all of them, and it has no robustness at all. The one model that fails is CiiV: one step along
# its own gradient leaves far more than one step along a stranger's. That gradient sits in a few pixels, as we saw, so FGSM
# was blind. Yet CiiV is one of the few that keep something in the end. So a failed check says that *an attack* was bad,
# here FGSM on CiiV, and that its number in the table must not be believed. A passed check says nothing: VIB and CausalIB
# pass, as the plain network does, with nothing left. A sign against masking is no measurement of robustness.

# %% [markdown]
# ## At full scale
#
# From here on the chapter shows recorded runs: the document's own data, MNIST and Fashion-MNIST, its own network, its 50
# epochs. At `cpu` adversarial training by PGD has 10. Table 1 first, the document's number beside ours: clean, FGSM and
# PGD-20 as published, and the worst case of the whole adaptive protocol, which the document does not have.

# %% tags=["recorded"]
everything = results.load(document="causalib")
best = next((p for p in ("paper", "cpu") if p in set(everything.profile)), "")
everything = everything[everything.profile == best]
claims = results.claims().query("document == 'causalib' and kind == 'level'")
order = ["mlp", "mlp-mixup", "mlp-smoothing", "mlp-ciiv", "mlp-vib", "mlp-causalib"]
order += ["mlp-at-fgsm", "mlp-at-pgd"]
place = {name: k for k, name in enumerate(order)}
everything = everything.sort_values("model", key=lambda m: m.map(place), kind="stable")


def at(rows, eps):
    """Clean accuracy, and what is left at one radius in linf."""
    close = (rows.eps - eps).abs() < 1e-6
    clean = (rows.attack == "none") & (rows.metric == "clean_accuracy")
    linf = (rows.metric == "accuracy") & (rows.norm == "linf") & (rows.variant == "")
    return report.without_stages(rows[clean | (linf & close)])


# %% tags=["recorded"]
def table_one(images, number):
    rows = at(everything[(everything.data == images) & (everything.seed == number)], eps)
    said = claims[(claims.data == images) & (claims.locator == "Table 1")]
    printed = {(c.model, c.attack): c.value for c in said.itertuples()}
    wanted = ["none", "fgsm", "pgd", "worst-case"]
    return report.beside(rows[rows.attack.isin(wanted)], printed, order, wanted)


with pd.option_context("display.width", 200):
    for images in ("mnist", "fashion-mnist"):
        display(table_one(images, 0).rename_axis(images))

# %% [markdown]
# The first line is the one to check a laboratory by, and nearly fits: an undefended network falls to nothing here as there
# (FGSM leaves ours one image in a hundred, theirs seven). CausalIB does not fit. The document has 81 and 54 % of MNIST left
# at 50/255. Of ours, trained as the text says, FGSM leaves next to nothing, and PGD nothing. No stronger attack was needed
# to refute it. mixup does not fit either: printed at 21 % under FGSM, ours keeps 3, and under AutoAttack at 8/255, below,
# 14 % where the plain network keeps 69. Mixing images made it weaker. Smoothing, printed at 34 and 13 %, keeps two images
# in a hundred. But at half of that radius, 24/255, it does resist (Figure 4, below): under PGD on the margin, averaged over
# its noise, 57 of 100 images are left, where the plain network, VIB and CausalIB keep two or fewer.
#
# CiiV resists best of what was not trained on attacks. Its 93 % under FGSM say nothing, for that gradient is masked, as we
# saw on clothes. PGD-20 leaves 9 (printed: 72 and 48), and the whole protocol 8; at 8/255 it is 99. Look at the data for
# the reason. Most pixels of a digit are black. The threshold sees $2x - 1$ plus noise of at most 0.9, so no black pixel
# turns bright before $x = 0.05$, which is 13/255. At 24/255 one in twenty does. What is black and white to begin with loses
# nothing by being looked at in black and white.
#
# How much of that is the attack's fault? At 0.1, half of Table 1's radius, everything that follows a gradient leaves 90 %:
# PGD on the margin, led by the stand-in and by its own gradient and averaged over the noise, and AutoAttack (on the first
# 50 images). Then comes Square. It sees scores alone and tries squares at random, 200 of them, and 56 % are left; a
# stranger's images make it 54. So even the stand-in is half blind. One sign of the masking report, below, had said so:
# *random search beats gradients*. Without attacks that need no gradient of its own CiiV would stand in our table with 36
# points too many. More tries may find more.
#
# What was trained on attacks does keep something. By PGD, with a fifth of the document's epochs, it is 62 % under PGD-20,
# where the document has 70, and 56 in the worst case. By FGSM it is less than it looks: 72 % under FGSM, 32 under PGD-20
# (the document: 76 and 68), and 9 in the worst case. So ours has half learned its own attack by heart (chapter 09), with the
# repair of a random start and all. Only the protocol shows how far: PGD on the margin leaves it 35 %, and what AutoAttack
# takes beyond that shows in no sign of its masking report, below. The network trained by PGD loses four points to
# AutoAttack.

# %% tags=["recorded"]
left = partial(
    report.left, everything[(everything.data == "mnist") & (everything.seed == 0)]
)
if best == "cpu":
    for name in ("mlp", "mlp-causalib"):
        assert left(name, "fgsm", eps) < 0.1
        assert left(name, "pgd", eps) < 0.02
    family = {
        name: left(name, "autoattack", 8 / 255)
        for name in ("mlp", "mlp-vib", "mlp-causalib")
    }
    assert family["mlp-causalib"] < 0.55 < 0.65 < min(family["mlp"], family["mlp-vib"])
    assert max(left(name, "worst-case", 0.1) for name in family) < 0.02
    whole = {name: left(name, "worst-case", 8 / 255) for name in family}
    assert whole["mlp-causalib"] < 0.55 < 0.65 < min(whole["mlp"], whole["mlp-vib"])

# %% tags=["recorded"]
if best == "cpu":
    attacked_in_training = {
        "mlp-at-fgsm": {"fgsm": 0.72, "pgd": 0.32, "pgd-margin": 0.35, "worst-case": 0.09},
        "mlp-at-pgd": {"pgd": 0.62, "worst-case": 0.56},
    }
    for name, kept in attacked_in_training.items():
        assert {k: round(left(name, k, eps), 2) for k in kept} == kept
    assert left("mlp-smoothing", "pgd", eps) < 0.05
    resists = {name: left(name, "pgd-margin", 24 / 255) for name in order[:6]}
    assert sorted(resists, key=resists.get)[-2:] == ["mlp-smoothing", "mlp-ciiv"]
    assert resists["mlp-ciiv"] > 0.85
    assert left("mlp-ciiv", "fgsm", eps) > 0.9
    assert left("mlp-ciiv", "transfer-fgsm", eps) < 0.3
    assert max(left("mlp-ciiv", way, eps) for way in ("pgd", "pgd-margin")) < 0.15
    assert resists["mlp-smoothing"] > 0.5
    assert max(resists[name] for name in family) < 0.025
    assert left("mlp-mixup", "fgsm", eps) < 0.05
    assert left("mlp-mixup", "autoattack", 8 / 255) < 0.2

# %% tags=["recorded"]
stages = everything[(everything.data == "mnist") & (everything.protocol == "adaptive")]
stages = stages[(stages.model == "mlp-ciiv") & (stages.metric == "accuracy")]
stages = stages.pivot_table("value", "eps", "attack")
if best == "cpu":
    kept = stages.loc[0.1]
    assert kept["pgd"] == kept["pgd+autoattack"] > 0.88
    assert 0.55 < kept["pgd+autoattack+square"] < 0.57
    assert 0.53 < kept["worst-case"] < 0.55
    assert left("mlp-ciiv", "worst-case", eps) < 0.1
    assert left("mlp-ciiv", "worst-case", 8 / 255) > 0.98
    rest = [left(name, "worst-case", 0.1) for name in order[:6] if name != "mlp-ciiv"]
    assert max(rest) == left("mlp-smoothing", "worst-case", 0.1) < kept["worst-case"] - 0.05

# %%
dark = torch.zeros(1, 1, 28, 28, device=device)
lit = {}
for k in (0, 12, 24):
    glances, kept = ciiv.glances(dark + k / 255, gazes, generator())
    lit[k] = (glances.mean() / kept.mean()).item()
assert lit[0] == lit[12] == 0
assert 0.04 < lit[24] < 0.06

# %% [markdown]
# Is it at least better than what it is built on? At 8/255, where the attack has not won yet, the document prints 56 % under
# AutoAttack for the plain network, 89 for VIB and 95 for CausalIB (its Table 4). Ours keep 69, 69 and 51: the order is
# turned round. The whole protocol says the same, 69, 69 and 50; at 0.1, half of Table 1's radius, it leaves less than two
# per cent of each. So "the best without adversarial training" does not stand on MNIST, whether the attacker averages over
# the noise or not: CausalIB is 18 points *behind* VIB. That is not what we predicted either; the two should have been
# alike. Nor is anything hidden. No masking report of the three, below, fails a sign; they fall to the first attack.
#
# On Fashion-MNIST PGD on the margin leaves these three 29, 38 and 33 % at 8/255: both codes are ahead of the plain network,
# and CausalIB is behind VIB again. At 50/255 PGD leaves nothing of any, and FGSM nothing of CausalIB (printed: 14 and 51)
# and 1 % of mixup (printed: 9).
#
# CiiV leads what is not trained on attacks, as on digits: the whole protocol leaves it 85 % at 8/255, 38 at 0.1 and 5 at
# 50/255, and smoothing 74, 17 and nothing. Its numbers come near the printed ones, too, 48 % under FGSM and 9 under PGD-20
# (printed: 45 and 15). And again attacks by gradient are not the worst for it: at 0.1 they leave 49 %, Square ten points
# fewer, and the same sign of the masking report fails.
#
# At 8/255 CiiV is even ahead of the network trained on PGD. That training costs 15 points without any attack on clothes, 75
# % are right where the plain network has 90. What is never right cannot be kept. At 0.1 the order is turned round, 38
# against 60. Which of the two is the more robust depends on the radius that one asks about.
#
# The network trained on FGSM has learned its attack by heart outright. Under FGSM it keeps 75 % at 50/255, which is *more*
# than the 65 it keeps at 8/255. PGD-20 leaves 8 (printed: 56 and 17), the whole protocol two images of 500. Accuracy that
# rises with the radius is a sure sign that something is wrong with the attack. The masking report compares no two radii of
# FGSM, and no sign of it fails.

# %% tags=["recorded"]
clothes = everything[(everything.data == "fashion-mnist") & (everything.seed == 0)]
if best == "cpu":
    under = at(clothes, 8 / 255).query("attack == 'pgd-margin'")
    under = under.set_index("model", drop=False)
    plain, vib, causalib = (
        results.outcomes_of(under.loc[name]) for name in ("mlp", "mlp-vib", "mlp-causalib")
    )
    ahead = paired_difference(causalib, plain, "accuracy", 8 / 255)
    behind = paired_difference(vib, causalib, "accuracy", 8 / 255)
    print(f"CausalIB is ahead of the plain network by {ahead}")
    print(f"and behind VIB by {behind}")
    assert min(ahead.low, behind.low) > 0.015
    ours = partial(report.left, clothes, "mlp-causalib")
    assert max(ours(attack, eps) for attack in ("fgsm", "pgd")) < 0.005

# %% tags=["recorded"]
if best == "cpu":
    whole = {
        name: results.outcomes_of(rows.iloc[0])
        for name, rows in clothes.query("attack == 'worst-case'").groupby("model")
    }
    for radius in (8 / 255, 0.1):
        lead = paired_difference(whole["mlp-ciiv"], whole["mlp-at-pgd"], "accuracy", radius)
        print(f"at {radius:.3f}, CiiV less training on PGD: {lead}")
        assert lead.low > 0.05 if radius < 0.1 else lead.high < -0.1
    kept = {
        name: [
            round(report.left(clothes, name, "worst-case", r), 2)
            for r in (8 / 255, 0.1, eps)
        ]
        for name in ("mlp-ciiv", "mlp-smoothing", "mlp-at-pgd")
    }
    assert kept["mlp-ciiv"] == [0.85, 0.38, 0.05]
    assert kept["mlp-smoothing"] == [0.74, 0.17, 0.0]
    assert kept["mlp-at-pgd"][1] == 0.6

# %% tags=["recorded"]
stages = clothes[(clothes.model == "mlp-ciiv") & (clothes.protocol == "adaptive")]
stages = stages[stages.metric == "accuracy"].pivot_table("value", "eps", "attack")
if best == "cpu":
    squares = stages.loc[0.1, "pgd+autoattack"] - stages.loc[0.1, "pgd+autoattack+square"]
    assert 0.09 < squares < 0.11
    signs = results.reports().query("data == 'fashion-mnist' and model == 'mlp-ciiv'")
    failed = signs[signs.verdict == "fail"].sign
    assert list(failed) == ["random search beats gradients"]
    for attack, printed in (("fgsm", 0.45), ("pgd", 0.15)):
        assert abs(report.left(clothes, "mlp-ciiv", attack, eps) - printed) < 0.07
    right = clothes[(clothes.metric == "clean_accuracy") & (clothes.attack == "none")]
    right = right.set_index("model").value
    assert 0.14 < right["mlp"] - right["mlp-at-pgd"] < 0.16

# %% tags=["recorded"]
if best == "cpu":
    assert report.left(clothes, "mlp-mixup", "fgsm", eps) < 0.015
    by_heart = partial(report.left, clothes, "mlp-at-fgsm")
    assert by_heart("fgsm", eps) > by_heart("fgsm", 8 / 255) + 0.08
    assert by_heart("pgd", eps) < 0.1
    assert by_heart("worst-case", eps) < 0.005
    signs = results.reports().query("data == 'fashion-mnist' and model == 'mlp-at-fgsm'")
    assert len(signs) > 0
    assert (signs.verdict != "fail").all()

# %% [markdown]
# Two things differ between VIB and CausalIB: the causal loss, and $\alpha$, 0.05 against 0.01. The cell $\alpha = 0.05$,
# $\beta = 0$ of Table 3 stands between them. Here it is at 8/255, PGD on the margin.

# %% tags=["recorded"]
between = ["mlp-vib", "mlp-causalib@alpha=0.05,beta=0", "mlp-causalib"]
steps = at(everything[(everything.data == "mnist") & (everything.seed == 0)], 8 / 255)
steps = steps[(steps.attack == "pgd-margin") & steps.model.isin(between)]
steps = steps.set_index("model", drop=False).reindex(between).dropna(subset="value")
display(report.rates(steps, "attack"))
if best == "cpu":
    vib, cell, causalib = (results.outcomes_of(steps.loc[name]) for name in between)
    costs = {
        "a larger alpha": paired_difference(vib, cell, "accuracy", 8 / 255),
        "the causal loss": paired_difference(cell, causalib, "accuracy", 8 / 255),
    }
    for change, cost in costs.items():
        print(f"{change} costs {cost}")
    assert abs(costs["a larger alpha"].value) < 0.05
    assert costs["the causal loss"].low > 0.12

# %% [markdown]
# The larger $\alpha$ costs nothing. It is the causal loss, the very term that was to make the network robust, that makes it
# weaker here. (The cell in between is one training; other seeds of its two neighbours stand below.)
#
# How can it? The loss asks that the scores answer alike to any noise in the code. Shrink what the noise does to them, and
# they do. So look at four numbers, means over 1,000 digits: how far the true class leads, in logits; by how much the noise
# moves that lead; how steep the lead is in the image (the $\ell_1$ norm of its gradient); and the rate, how much the code
# tells, in nats. The last column, the reach, is lead over slope: how far away in $\ell_\infty$, in 255ths, the boundary
# would be if all were linear.

# %% tags=["recorded"]
noise = everything[everything.attack == "noise-in-the-code"]
noise = noise[(noise.data == "mnist") & noise.model.isin(between)]
noise = noise.pivot_table("value", ["model", "seed"], "metric")
noise = noise.reindex(between, level="model").rename_axis(columns=None)
if best == "cpu":
    without, with_loss = (noise.loc[name, 0] for name in between[1:])
    assert with_loss.lead_noise < without.lead_noise / 6
    assert without.lead / 3 < with_loss.lead < without.lead / 2
    assert without.slope / 2 < with_loss.slope < without.slope
    assert with_loss.rate > without.rate + 2
    assert noise.loc["mlp-vib"].rate.min() > with_loss.rate
    assert noise.loc["mlp-vib"].lead_noise.min() > 3
if len(noise):
    noise["reach"] = 255 * noise.lead / noise.slope
noise.round(1) if len(noise) else results.NOT_RUN

# %% [markdown]
# With the causal loss the noise moves the lead by 0.5 logits, without it by 3.9: an eighth. The lead itself shrinks, too,
# to less than half, but the slope shrinks less than the lead, so the boundary comes nearer. The code also tells more, 9
# nats in place of 6. But that is not it, for VIB's tells as much, and VIB resists. What VIB has, and CausalIB has not, is a
# noise that is heard. One reading: a network that wants to be sure in spite of noise has to put its classes far apart.
# Where its decoder no longer hears the noise, it need not. The map of both weights, below, will put that to the test.
#
# The seeds beside each other, for the three models that are to have three, at 8/255, where something is left.

# %% tags=["recorded"]
trio = everything[everything.model.isin(["mlp", "mlp-vib", "mlp-causalib"])]
trio = trio[trio.data == "mnist"]
table = at(trio, 8 / 255).pivot_table(
    "value", ["model", "seed"], "attack", "first", sort=False
)
wanted = [c for c in ("none", "fgsm", "pgd", "pgd-margin") if c in table]
table[wanted].round(3) if len(table) else results.NOT_RUN

# %% tags=["recorded"]
rows = at(trio, 8 / 255).query("attack == 'pgd-margin'")
runs = {(row.model, row.seed): results.outcomes_of(row) for _, row in rows.iterrows()}
if best == "cpu":
    for number in (0, 1, 2):
        plain, vib, causalib = (
            runs[name, number] for name in ("mlp", "mlp-vib", "mlp-causalib")
        )
        behind = paired_difference(vib, causalib, "accuracy", 8 / 255)
        ahead = paired_difference(vib, plain, "accuracy", 8 / 255)
        print(f"seed {number}: VIB is ahead of CausalIB by {behind}")
        print(f"        and of the plain network by {ahead}")
        assert behind.low > 0.13
        assert paired_difference(plain, causalib, "accuracy", 8 / 255).low > 0.13
        assert ahead.low > 0 if number == 2 else ahead.low < 0 < ahead.high
    silenced = everything[
        (everything.metric == "lead_noise") & (everything.data == "mnist")
    ]
    silenced = silenced[silenced.model == "mlp-causalib"].set_index("seed").value
    assert len(silenced) == 3
    assert silenced.max() < 0.5

# %% [markdown]
# It is no luck of one training. In each of three CausalIB is behind VIB, by 16, 19 and 24 points, and behind the plain
# network by 17 and more; in each the noise moves its lead by half a logit. VIB is level with the plain network in two of
# them, and four points ahead in the third.

# %% [markdown]
# Figure 4 of the document: MNIST, from 8/255 to 152/255. As published on the left, adapted on the right. Its text has VIB
# below one half from 72/255 on under FGSM, and CausalIB from 96/255.

# %% tags=["recorded"]
curve = report.without_stages(everything)
curve = curve[(curve.data == "mnist") & curve.model.isin(order)]
curve = curve[(curve.metric == "accuracy") & (curve.norm == "linf") & (curve.variant == "")]
curve = curve[curve.seed == 0]
panels = {"FGSM": "fgsm", "PGD-20": "pgd", "margin PGD, EOT": "pgd-margin"}
figure, axes = plt.subplots(1, 3, figsize=(10.5, 2.9), sharey=True)
for axis, (title, attack) in zip(axes, panels.items(), strict=True):
    part = curve[curve.attack == attack]
    if part.empty:
        axis.text(0.5, 0.5, results.NOT_RUN, ha="center", transform=axis.transAxes)
        axis.set(title=title, xlabel="ε")
        continue
    figures.curves(part, xlabel="ε", ylabel="accuracy", title=title, axis=axis)
    if axis is not axes[-1]:
        axis.get_legend().remove()

# %% [markdown]
# What falls to which attack of the protocol, on both data sets.

# %% tags=["recorded"]
for images in ("mnist", "fashion-mnist"):
    rows = everything[(everything.data == images) & everything.model.isin(order)]
    if figure := report.survivors(report.stages(rows[rows.seed == 0])):
        figure.suptitle(images)

# %% [markdown]
# Tables 3 and 6, the weights: the document's maps, on MNIST, and beside each ours where it has been recorded. Move the
# slider from one to the other. The last map is ours alone, at 8/255, where something is left. (VIB is the cell $\alpha$ =
# 0.01, $\beta$ = 0.)

# %% tags=["recorded"]
A, B = [0, 0.01, 0.05], [0, 0.01, 0.05, 0.2, 0.5, 1]
ablation = everything[(everything.data == "mnist") & (everything.seed == 0)]
ablation = ablation.replace({"model": {"mlp-vib": "mlp-causalib@alpha=0.01,beta=0"}})
ablation = ablation[ablation.model.str.startswith("mlp-causalib@alpha")]


def pair_of(name):
    """Alpha and beta out of a model's name."""
    return [float(part.split("=")[1]) for part in name.partition("@")[2].split(",")]


def weights(rows):
    """A map of alpha and beta from rows with a model and a value; what is missing is not a number."""
    table = torch.full((len(A), len(B)), math.nan)
    for row in rows.itertuples():
        alpha, beta = pair_of(row.model)
        table[A.index(alpha), B.index(beta)] = row.value
    return table


# %% tags=["recorded"]
said = claims[claims.model.str.startswith("mlp-causalib@alpha")]
maps = {}
for title, attack in {"clean": "none", "FGSM": "fgsm", "PGD-20": "pgd"}.items():
    maps[f"{title}, the document"] = weights(said[said.attack == attack])
    ours = at(ablation, eps)
    if len(ours):
        maps[f"{title}, ours"] = weights(ours[ours.attack == attack])
near = at(ablation, 8 / 255).query("attack == 'pgd-margin'")
if len(near):
    maps["margin PGD at 8/255, ours"] = weights(near)

# %% tags=["recorded", "hide-input", "slider"]
alt = "Accuracy on MNIST for each alpha (rows) and beta (columns), the document's and ours"
frames = [heat(values, A, B, title) for title, values in maps.items()]
if len(ablation) == 0:
    print("ours:", results.NOT_RUN)
figures.slider_figure(frames, list(maps), "map", alt=alt)

# %% [markdown]
# At 50/255 nothing is left of ours in any cell that has learned its digits, where the document has 12 to 54 %. And some of
# ours have not learned them. With $\alpha$ = 0.05 and $\beta$ = 0.5 or 1 our network names one digit for every image. It
# keeps the 12.6 % that show this digit, under any attack and at any radius; at 0.2 it is right on 31 %. There the document
# prints 93 to 96 %. So a unit of its loss seems to weigh less than one of ours, a mean over pairs. By the letter of its
# equation 10, a sum over 132 ordered pairs, it would weigh 132 times more: $\beta$ = 6.6. Here is that network, and beside it
# the two norms of Table 3.

# %% tags=["recorded"]
names = [f"mlp-causalib@{change}" for change in ("norm=l1", "norm=l2", "beta=6.6")]
rows = at(everything[(everything.data == "mnist") & (everything.seed == 0)], 8 / 255)
rows = rows[rows.attack.isin(["none", "pgd-margin"]) & rows.model.isin(names)]
display(
    report.rates(
        rows.assign(model=pd.Categorical(rows.model, names)).sort_values("model"), "attack"
    )
)
if best == "cpu":
    by_norm = rows[rows.attack == "pgd-margin"].set_index("model", drop=False)
    l1, l2, by_letter = (results.outcomes_of(by_norm.loc[name]) for name in names)
    ahead = paired_difference(l2, l1, "accuracy", 8 / 255)
    print(f"the l2 norm is ahead of the l1 norm by {ahead}")
    assert ahead.low > 0.04
    assert by_norm.value[names[-1]] < 0.13

# %% [markdown]
# By the letter the network learns nothing. And $\ell_2$ leaves more than $\ell_1$, where the document prints the other order,
# 46 and 54 % under PGD-20. Of ten numbers $\ell_2$ is the smaller norm, so its loss weighs less; that may be all.
#
# Now the last map as curves, and beside it the lead of the true class. Look at what a growing $\beta$ does, row by row.

# %% tags=["recorded", "hide-input"]
noise = everything[(everything.attack == "noise-in-the-code") & (everything.seed == 0)]
noise = noise[noise.data == "mnist"].replace(
    {"model": {"mlp-causalib": "mlp-causalib@alpha=0.05,beta=0.05"}}  # by another name
)
noise = noise[noise.model.isin(ablation.model)]
leads = noise[noise.metric == "lead"]
if len(near) and len(leads):
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.7))
    for axis, rows in zip(axes, (near, leads), strict=True):
        for k, (alpha, line) in enumerate(zip(A, weights(rows), strict=True)):
            there = [j for j in range(len(B)) if not line[j].isnan()]
            label = f"α = {alpha:g}"
            axis.plot(there, line[there], marker="os^"[k], color=f"C{k}", label=label)
        axis.set(xlabel="β", xticks=range(len(B)), xticklabels=[f"{b:g}" for b in B])
    axes[0].set(ylabel="left by margin PGD, 8/255", ylim=(0, 1))
    axes[1].set(ylabel="lead, logits")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
else:
    print(results.NOT_RUN)

# %% tags=["recorded"]
table = noise.pivot_table("value", "model", "metric", sort=False).rename_axis(columns=None)
table["left at 8/255"] = near.set_index("model").value
table = table.loc[sorted(table.index, key=pair_of)]
table.index = [f"α = {a:g}, β = {b:g}" for a, b in map(pair_of, table.index)]
table.round(3) if len(table) else results.NOT_RUN

# %% tags=["recorded"]
if best == "cpu":  # what the next sentences say
    kept, lead = (
        {tuple(pair_of(row.model)): row.value for row in rows.itertuples()}
        for rows in (near, leads)
    )
    row = [kept[0.05, beta] for beta in B]
    assert row[0] - 0.02 > row[1] > row[2] + 0.1
    assert row[2] > row[3] + 0.3
    assert 0.12 < row[4] == row[5] < 0.13
    assert lead[0.05, 0] / 2 > lead[0.05, 0.01] - 0.1 > lead[0.05, 0.05] > 4
    assert abs(kept[0.01, 0.05] - kept[0.05, 0.05]) < 0.01

# %% tags=["recorded"]
if best == "cpu":  # and of the other two rows
    row = [kept[0.01, beta] for beta in (0.01, 0.05, 0.2, 1)]
    assert 0.53 < min(row) < max(row) < 0.57 < kept[0.01, 0] - 0.12
    assert all(5.7 < lead[0.01, beta] < 6 for beta in (0.01, 0.05, 0.2, 1))
    nats = noise[noise.metric == "rate"].set_index("model").value
    nats = [nats[f"mlp-causalib@alpha=0.01,beta={b}"] for b in ("0.01", "1")]
    assert [round(value) for value in nats] == [11, 33]
    assert kept[0, 0] > 0.74
    assert 23.5 < min(lead[0, beta] for beta in (0.05, 0.2, 1)) < lead[0, 0]
    weakest = at(ablation, eps).query("attack == 'pgd'").set_index("model").value
    learned = at(ablation, eps).query("attack == 'none' and value > 0.9").model
    assert weakest[learned].max() < 0.002

# %% tags=["recorded"]
if best == "cpu":
    free = near[near.model.str.contains("alpha=0,")]
    runs = {row.model: results.outcomes_of(row) for _, row in free.iterrows()}
    name = "mlp-causalib@alpha={:g},beta={:g}".format
    for beta in (0.05, 0.2, 1):
        cost = paired_difference(runs[name(0, 0)], runs[name(0, beta)], "accuracy", 8 / 255)
        print(f"without a price on the code, beta = {beta:g} costs {cost}")
        assert cost.high < 0.1
    moved, share = (
        noise[noise.metric == what].set_index("model").value
        for what in ("lead_noise", "loudest")
    )
    assert moved[name(0, 0)] < 0.1
    assert moved[[name(0, beta) for beta in (0.05, 0.2, 1)]].max() < 0.0015
    assert share[[name(0, beta) for beta in (0.05, 0.2, 1)]].min() > 0.999
    assert share[[name(*p) for p in lead if p[0] > 0 and name(*p) in share]].max() < 0.0042

# %% [markdown]
# On the row $\alpha$ = 0.05 a growing $\beta$ shrinks the lead, from 11 logits to 5.5 and 4.5, and with it what is left:
# 72, 68 and 53 %. Then the network gives up. (The lead at $\beta$ = 0.05 is that of CausalIB itself.) On the row $\alpha$ =
# 0.01 the smallest $\beta$ takes all that there is to take: 57 % are left, where VIB keeps 70. A hundred times that $\beta$
# takes nothing more, and no network gives up.
#
# And the reading from above? In the corner without either weight nothing keeps the noise loud, and it falls silent: it
# moves a lead of 26 logits by 0.06. Yet 76 % are left, no fewer than of a plain network. So a noise that nobody hears costs
# nothing by itself, and the reading falls. What the causal loss takes is the lead. It makes the decoder small, and the
# price on the code keeps the encoder from being loud instead. The row $\alpha$ = 0.01 agrees. There the price is a fifth,
# and as $\beta$ grows the encoder does pay: its code grows from 11 to 33 nats, and the lead stays at 5.8 or 5.9.
#
# Without any price, on the top row, the lead stays at 24 logits, and 75, 73 and 69 % are left. But look at the column
# `loudest`, the share of the noise's variance that lies in one number of the code. On the other rows it is 1/256, an equal
# share. On this row it is 1.00. The network has found the way out that we built by hand: all its noise is in one number, and
# the decoder does not read it, for the lead moves by 0.001 logits. Here the loss is not borne. It is evaded.
#
# One lesson remains. A network that answers as before can have this loss for nothing. It does not measure what a network
# knows about causes.
#
# AutoAttack and C&W, Tables 4 and 8. The radius of 8/255 is far smaller than that of Table 1. In $\ell_2$ it cannot be
# meant as printed: a change of that length cannot cost an undefended network 28 points. So it is read in three ways. C&W of
# 20 steps has no budget in the document; here it may go any distance in $\ell_2$, and a model is right where it finds
# nothing.

# %% tags=["recorded"]
tables = everything[
    everything.attack.isin(["autoattack", "cw"]) & (everything.metric == "accuracy")
]
tables = tables[(tables.protocol == "as_published") & (tables.seed == 0)]
how = tables.reading.where(tables.reading != "", tables.norm + " radius")
how = how.where(tables.attack == "autoattack", "C&W, any distance")
tables = tables.assign(
    how=how,
    cell=[report.percent(r.value, r.low, r.high) for r in tables.itertuples()],
)
table = tables.pivot_table("cell", ["data", "model"], "how", "first", sort=False)
table.sort_index(level="data", sort_remaining=False) if len(tables) else results.NOT_RUN

# %% tags=["recorded"]
half = tables[(tables.data == "mnist") & tables.reading.str.contains("0.5")].set_index(
    "model"
)
if best == "cpu":
    cw = tables[(tables.data == "mnist") & (tables.attack == "cw")].set_index("model").value
    assert cw["mlp"] > 0.4
    plain, vib, causalib = (
        results.outcomes_of(half.loc[name].to_dict() | {"model": name})
        for name in ("mlp", "mlp-vib", "mlp-causalib")
    )
    assert paired_difference(vib, plain, "accuracy", 0.5).low > 0.03
    assert paired_difference(causalib, plain, "accuracy", 0.5).high < -0.05

# %% [markdown]
# C&W may go as far as it likes, and still half of an undefended network is left: 20 steps are too few, and that column
# measures the attack, not the models. In $\ell_2$ at 0.5 VIB keeps eight points more than the plain network, which is a
# result in the document's favour, and CausalIB twelve fewer.
#
# The released code hands its attacks a softmax, and they take another softmax of it. As published is the text; this is the
# code, on the two models with a noisy code, at 50/255.

# %% tags=["recorded"]
coded = everything[(everything.eps - eps).abs() < 1e-6].query("metric == 'accuracy'")
coded = coded[coded.model.isin(["mlp-vib", "mlp-causalib"]) & (coded.seed == 0)]
coded = coded[coded.attack.isin(["fgsm", "pgd"]) & (coded.protocol == "as_published")]
coded = coded.assign(how=coded.variant.replace({"": "text"}))
coded.pivot_table("value", ["data", "model"], ["attack", "how"], "first", sort=False).round(
    3
) if len(coded) else results.NOT_RUN

# %% [markdown]
# On MNIST both give the same numbers, to a point. The second softmax decides nothing.
#
# And the four checks once more, on every model at full scale.


# %% tags=["recorded"]
def recorded_checks(rows, name):
    left = partial(report.left, rows[rows.variant == ""], name)
    passed = {
        "FGSM leaves more than PGD": left("fgsm", eps) - left("pgd", eps),
        "black box leaves more, FGSM": left("transfer-fgsm", eps) - left("fgsm", eps),
        "black box leaves more, PGD": left("transfer-pgd", eps) - left("pgd", eps),
        "152/255 leaves chance": 0.1 + 0.02 - left("pgd", 152 / 255),
    }
    words = {True: "passes", False: "fails"}
    return {k: "–" if math.isnan(v) else words[v >= 0] for k, v in passed.items()}


rows = everything[(everything.data == "mnist") & (everything.seed == 0)]
pd.DataFrame({name: recorded_checks(rows, name) for name in order}).T

# %% [markdown]
# Read this table with care. Two cells fail. That of the plain network is one image of 1,000, and so is the first "passes" of
# CausalIB: where nothing is left, the checks have nothing to compare. That of CiiV is no accident: one step along its own
# gradient leaves 93 %, one step along a stranger's 24. The other passes are clear, and the plain network and mixup have
# theirs with nothing left. The network trained by FGSM passes all four, and what PGD-20 says of it is more than three times
# too much.
#
# ## The verdict
#
# Each sentence of the document: by its own attacks on the left, adaptive on the right. Rows about CIFAR wait for a GPU: `make
# reproduce PROFILE=paper` runs AlexNet, ResNet34 and WideResNet.


# %% tags=["recorded"]
def in_words(claim):
    said = f"numbers of the tables ({claim.attack} {claim.norm})"
    if claim.versus == claim.model:
        said = "the sanity checks of section 4.6 hold"
    elif claim.metric == "clean_accuracy":
        said = "clean, against adversarial training" if claim.versus else "clean accuracy"
    elif claim.kind == "order":
        said = f"CausalIB keeps more than what is not trained on attacks ({claim.attack})"
    elif claim.kind in ("gap", "bound"):
        said = f"Figure 4 and its text ({claim.attack})"
    return f"{claim.data}: {said}"


# %% tags=["recorded"]
board = results.scoreboard(document="causalib", chapter="10")
board = board[board.metric != "best_alpha"]
with pd.option_context("display.max_colwidth", None, "display.max_rows", None):
    display(report.verdicts(board, in_words))

# %% [markdown]
# And beside it the masking report of every model at 50/255 on MNIST (the other gradient is that of CiiV's stand-in, else
# that of the plain network).

# %% tags=["recorded"]
sheets = results.reports()
sheets = sheets[
    (sheets.document == "causalib") & (sheets.profile == best) & (sheets.data == "mnist")
]
sheets = sheets[sheets.model.isin(order)].assign(
    cell=lambda t: t.verdict + " (" + t.value.round(2).astype(str) + ")"
)
if best == "cpu":
    trio = sheets[sheets.model.isin(["mlp", "mlp-vib", "mlp-causalib"])]
    assert (trio.verdict != "fail").all()
    assert (sheets[sheets.model == "mlp-at-fgsm"].verdict == "pass").all()
    failed = sheets[(sheets.model == "mlp-ciiv") & (sheets.verdict == "fail")]
    assert list(failed.sign) == ["random search beats gradients"]
table = sheets.pivot_table("cell", "sign", "model", "first", sort=False)
table[[name for name in order if name in table]] if len(sheets) else results.NOT_RUN

# %% [markdown]
# ## What it costs
#
# Timed in turns on one core, as multiples of the plain network: an epoch of training, and one prediction.

# %% tags=["recorded"]
timed = report.timings("defences")
table = timed.pivot(index="case", columns="timed", values="ratio").round(1)
table.reindex(timed.case.unique()) if len(table) else results.NOT_RUN

# %% [markdown]
# When this was written, a bottleneck added some six tenths to the price of training, CiiV took three times as long, and PGD
# of 20 steps sixteen times. Smoothing and CiiV send the bill later: a prediction asks the network ten and nine times, and
# CiiV's glances have to be made as well, so that it costs twenty times as much.

# %% [markdown]
# ## Exercises
#
# A check stands under each stub. The solutions are hidden; open them when you are done.
#
# **1. How many nats?** (easy, 10 minutes) A code has $D$ independent numbers, each with mean $\mu$ and standard deviation
# $\sigma$ given the image. Return the KL from a standard Normal, in nats, without `torch.distributions`.


# %%
def nats(mean, sigma):
    return None  # your code here


def check_nats(answer):
    mean = torch.randn(5, 8, generator=generator())
    sigma = torch.rand(5, 8, generator=generator()) + 0.1
    expected = kl_divergence(Normal(mean, sigma), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(answer(mean, sigma), expected)


if nats(torch.zeros(1, 1), torch.ones(1, 1)) is not None:
    check_nats(nats)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution
def nats_solution(mean, sigma):
    return 0.5 * (mean**2 + sigma**2 - 1 - 2 * sigma.log()).sum(1)


check_nats(nats_solution)

# %% [markdown]
# **2. Two stages.** (medium, 15 minutes) The ratio of covariances is one way to use an instrument. Another: predict $x$
# from $r$ by least squares, then regress $y$ on the prediction. Return its estimate of $w_{xy}$. Why are the two equal?


# %%
def two_stages(x, y, r):
    return None  # your code here


def check_stages(answer):
    for world in worlds[:5]:
        torch.testing.assert_close(
            answer(*world), by_instrument(*world), rtol=1e-3, atol=1e-3
        )


if two_stages(*worlds[0]) is not None:
    check_stages(two_stages)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution: the prediction is r times a number b, and the slope of y on b r is cov(r, y) / (b var r),
# with b = cov(r, x) / var r.
def two_stages_solution(x, y, r):
    predicted = slope(r, x) * (r - r.mean())
    return slope(predicted, y)


check_stages(two_stages_solution)

# %% [markdown]
# **3. How many votes?** (medium, 15 minutes) If all of $n$ noisy copies vote for one class, the proof reaches
# $\sigma\,\Phi^{-1}(0.001^{1/n})$. Return the smallest $n$ that can prove a radius $R$. What does a radius of $5\sigma$ cost?


# %%
def votes_needed(radius, sigma, error=0.001):
    return None  # your code here


def check_votes(answer):
    for radius in (0.1, 0.25, 0.5, 0.9):
        n = answer(radius, 0.25)
        assert certified_radius(n, n, 0.25) >= radius - 1e-6
        assert certified_radius(n - 1, n - 1, 0.25) < radius
    print(f"5 sigma: {answer(5.0, 1.0):.3g} votes an image")


if votes_needed(0.5, 0.25) is not None:
    check_votes(votes_needed)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution: 0.001^(1/n) >= Phi(R / sigma), solved for n.
def votes_needed_solution(radius, sigma, error=0.001):
    share = Normal(0.0, 1.0).cdf(torch.tensor(radius / sigma, dtype=torch.float64))
    return math.ceil(math.log(error) / share.log().item())


check_votes(votes_needed_solution)

# %% [markdown]
# **4. Is it the decoder?** (hard, 20 minutes) The text above says that with a linear last layer the causal loss is a
# penalty on the decoder $W$. For noise of one size in all directions, and $K$ and $D$ large, the mean of
# $\lVert w_i - w_j\rVert_1$ has a closed form: $w_i - w_j$ has Normal entries with standard deviation
# $\sqrt2\,\lVert W_c\rVert$ for row $c$. Return it, from $W$ alone.


# %%
def penalty_on(decoder):
    return None  # your code here


def check_penalty(answer):
    torch.manual_seed(seed)
    decoder = nn.Linear(256, 10)
    noise = 0.3 * torch.randn(12, 400, 256, generator=generator())
    with torch.no_grad():
        response = noise @ decoder.weight.T
        torch.testing.assert_close(
            torch.as_tensor(answer(decoder)),
            training.causal_loss(response, noise),
            rtol=0.03,
            atol=0,
        )


if penalty_on(nn.Linear(2, 2)) is not None:
    check_penalty(penalty_on)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution: the mean of |N(0, s)| is s sqrt(2 / pi), and sqrt 2 times that is 2 / sqrt pi.
def penalty_on_solution(decoder):
    return 2 / math.sqrt(math.pi) * decoder.weight.detach().norm(dim=1).sum()


check_penalty(penalty_on_solution)

# %% [markdown]
# ## Summary
#
# A bottleneck makes a network keep fewer nats of an image, but nothing in it says that a small change of the image must
# make a small change of the code, and at 50/255 the first honest attack leaves nothing of it. The causal loss, in the one
# reading in which its equations hold, penalises the size of the last layer and does not see where an image lies in the
# code. On MNIST it costs 17 points at 8/255. Where the code is free, a network makes it vanish and answers as before. An
# instrument is of use where a coefficient is unknown and something is hidden. Of eight ways to train, training on PGD resists
# at 50/255. CiiV and smoothing keep something at half of that; smoothing proves a little of it, and gradients alone make CiiV
# look better than it is. And the checks against masking pass what has no robustness and fail what has some.
#
# **Sources.** VIB: {cite}`alemi2017deep`; its second reading: {cite}`korshunova2021closer`. Interventions and instruments:
# {cite}`pearl2009causality`. CiiV: {cite}`tang2021adversarial`. Smoothing: {cite}`cohen2019certified`. mixup:
# {cite}`zhang2018mixup`. The document: {cite}`causalib`.
#
# **Where next.** Part IV looks inside: chapters 11 to 13 take the plain and the robust network of chapter 09 and ask
# whether the robust one is easier to understand.
