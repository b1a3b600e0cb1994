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
# # Beyond gradients
#
# The attacks of chapter 05 climb a gradient and ask one question: does this image fall within $\epsilon$? This
# chapter asks two others. How small is the *smallest* change that fools? And what can an attack do that sees no
# gradient at all, only answers?
#
# **You will** build by hand the attack of Carlini and Wagner, two searches along a line, noise and blur, and check
# each against the library. You will see why six numbers in a published table cannot be right, and how such numbers
# come about. **You need** chapter 05. **It takes** an hour to read; the cells run in under a minute on a laptop.
#
# The document that this book calls `zoo` {cite}`zoo` attacks thirteen classifiers of MNIST in ten ways. Five of them
# know no gradient: additive noise, uniform and Gaussian; less contrast, by linear and by binary search; Gaussian
# blur. The tables print accuracy at $\ell_\infty$ radii 0.3 and 0.5. Here is what the text says, and after each
# quotation what can be measured:
#
# - These attacks look for "the smallest perturbation possible": a distance for each image.
# - Additive noise "didn't exploit the models' intrinsic properties", with "less visible effect on fooling the
#   models": accuracy under noise, against the length of change that would do.
# - On less contrast, the CVAE "outperformed both of its discriminative counterpart ... by a significant margin". At
#   0.3 Table 1 has 0.782 for it by a linear search and 0.550 by a binary one. Its two rivals have 0.956 and 0.082 by either.
# - There, logistic regression and the Gaussian mixture are "relatively similar". Table 1: 0.520 and 0.172.
# - C&W is the "strongest" attack and would "require weeks to run one iteration" on the CNN-VAE. No number is printed.
#
# The text does not say how many images were attacked, nor what was done about models that answer at random.

# %% tags=["parameters"]
profile = "quick"
seed = 0
data_root = ""
device = "auto"

# %%
import math
from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F

from hybridgen_lib import attacks, data, evaluation, figures, recipes, report, results
from hybridgen_lib.attacks import Linf
from hybridgen_lib.classifier import frozen_noise

figures.use_style()
torch.backends.cudnn.deterministic = True  # on a GPU, too, equal calls give equal gradients
torch.backends.cudnn.allow_tf32 = False
device = recipes.choose_device(device)
fashion = data.load(
    "fashion-mini" if profile == "quick" else "fashion-mnist", data_root or None
)

# %% [markdown]
# Three classifiers are enough here. `cnn` is a plain network. `gmm` is the document's mixture model: for each class,
# 60 round Gaussians over the pixels. Both are plain functions. `gfz` of chapter 04 draws random numbers to estimate
# its scores. The released code of `zoo` shows that its CNN-VAE is a model of this kind.

# %%
names = ["cnn", "gmm", "gfz"]
models = {
    name: recipes.trained(name, fashion, profile, seed, device=device) for name in names
}
cnn, gmm, gfz = models.values()
x = data.as_float(fashion.test_x[:30]).to(device)
y = fashion.test_y[:30].to(device)


def scores(model, x):
    with torch.no_grad(), frozen_noise(model, seed):
        return model(x)


for name, model in models.items():
    right = (scores(model, x).argmax(1) == y).sum()
    print(f"{name}: {right} of {len(y)} images right")

# %% [markdown]
# First, what the document prints. Rows are models, columns attacks at two radii. Look at the two columns on contrast
# at 0.5: which numbers stand apart?

# %%
gradient_free = ["uniform-noise", "contrast-linear", "contrast-binary", "blur"]
claims = results.claims()
tables = claims[(claims.document == "zoo") & claims.locator.isin(["Table 1", "Table 2"])]
columns = pd.MultiIndex.from_product([[0.3, 0.5], gradient_free], names=["ε", "attack"])
printed = tables.pivot(index="model", columns=["eps", "attack"], values="value")[columns]
printed.style.format("{:.3f}", na_rep="–").format_index("{:g}", axis=1, level=0)

# %% [markdown]
# ## Less contrast
#
# The simplest of these attacks fades an image towards mid grey. A share $s$ of the way is
#
# $$x_s = x + s\,\big(\tfrac12 - x\big), \qquad \lVert x_s - x\rVert_\infty = s \max_i \big|\tfrac12 - x_i\big| .$$
#
# Our images all have a black or a white pixel. So the distance is $s/2$, and $\epsilon = \tfrac12$ is reached at
# $s = 1$.


# %%
def less_contrast(x, share):
    return x + share.view(-1, 1, 1, 1) * (0.5 - x)


share = torch.linspace(0, 1, len(x), device=x.device)
torch.testing.assert_close(Linf(0).norm(less_contrast(x, share) - x), share / 2)

# %% [markdown]
# Move the slider, and look at the last step. Above each image stands what `cnn` and `gmm` say.


# %% tags=["hide-input", "slider"]
def frame(eps):
    faded = less_contrast(x[:6], torch.full((6,), 2 * eps, device=x.device))
    said = {name: scores(models[name], faded).argmax(1) for name in ("cnn", "gmm")}
    titles = [
        "\n".join(f"{name}: {fashion.classes[c[i]]}" for name, c in said.items())
        for i in range(6)
    ]
    figure, axes = plt.subplots(1, 6, figsize=(7.4, 1.6))
    for axis, image, title in zip(axes, faded.cpu(), titles, strict=True):
        axis.imshow(image[0], cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=7)
        axis.axis("off")
    return figure


radii = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
alt = "Six images with less and less contrast; at ε = 0.5 all are the same grey square"
figures.slider_figure([frame(eps) for eps in radii], radii, "contrast, ε", alt=alt)

# %% [markdown]
# To us the garments stay plain until 0.4. At the quick profile both models lose their way much earlier. At 0.5
# nothing is left: six times the same grey square, and six times the same answer.
#
# ## Two ways to search a line
#
# Which share is the smallest that fools? A *linear search* tries 1/100, 2/100, ... and takes the first that fools. A
# *binary search* halves an interval: if the middle fools, the smallest lies below, else above. For a precision of
# 1/1000 the first asks up to 1,000 questions, the second ten.


# %%
def fooled(model, x, y):
    return scores(model, x).argmax(1) != y


def linear_search(model, x, y, steps):
    found = torch.full((len(x),), torch.inf, device=x.device)
    for k in range(steps, 0, -1):  # downwards: the last one written is the smallest
        share = torch.full_like(found, k / steps)
        found[fooled(model, less_contrast(x, share), y)] = k / steps
    found[fooled(model, x, y)] = 0  # wrong already: no change is needed
    return found


# %% [markdown]
# The other keeps an interval: `low` does not fool, `high` does.


# %%
def binary_search(model, x, y, steps):
    low, high = torch.zeros(len(x), device=x.device), torch.ones(len(x), device=x.device)
    high[~fooled(model, less_contrast(x, high), y)] = torch.inf  # not even grey fools
    for _ in range(steps):
        middle = (low + high.clamp(max=1)) / 2
        hit = fooled(model, less_contrast(x, middle), y) & high.isfinite()
        low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
    high[fooled(model, x, y)] = 0
    return high


# %% [markdown]
# The library's searches give distances, not shares.

# %%
for model in (cnn, gmm):
    mine, halved = linear_search(model, x, y, 100), binary_search(model, x, y, 15)
    library = attacks.smallest_contrast_linear(model, x, y, steps=100, stride=1)
    torch.testing.assert_close(mine / 2, library.distance)
    library = attacks.smallest_contrast_binary(model, x, y, steps=15)
    torch.testing.assert_close(halved / 2, library.distance)

# %% [markdown]
# The binary search stands on an assumption: what fools at $s$ also fools at every larger share. Is it so? Below, each
# row is one image that starts right, each column a share; dark cells fool `gmm`. A ring marks what the linear search
# finds, a cross what the binary one does. The upper rows are those of 200 images that are dark, then light again; the
# lower rows are usual ones.

# %%
many = data.as_float(fashion.test_x[:200]).to(device)
labels = fashion.test_y[:200].to(device)
shares = torch.arange(101, device=x.device) / 100
dark = [fooled(gmm, less_contrast(many, s.expand(len(many))), labels) for s in shares]
dark = torch.stack(dark, 1).cpu()  # (200 images, 101 shares)
first = linear_search(gmm, many, labels, 100).cpu()
halved = binary_search(gmm, many, labels, 15).cpu()
turns = (dark[:, 1:] != dark[:, :-1]).sum(1) * ~dark[:, 0]  # of images that start right
assert (first <= halved + 0.01 + 1e-6).all()

# %% tags=["hide-input"]
odd, usual = (turns > 1).nonzero()[:12, 0], (turns == 1).nonzero()[:12, 0]
shown = torch.cat([odd, usual])
rows = torch.arange(len(shown))
figure, axis = plt.subplots(figsize=(6.6, 3.8))
axis.imshow(
    ~dark[shown], cmap="gray", vmin=-1, vmax=1, aspect="auto", interpolation="nearest"
)
axis.plot(
    100 * first[shown], rows, "o", color="C1", mfc="none", mew=2, label="linear search"
)
axis.plot(100 * halved[shown], rows, "x", color="C0", mew=2, label="binary search")
axis.axhline(len(odd) - 0.5, color="white", lw=3)
axis.set(xlabel="share of the way to grey, %", ylabel="image", yticks=[], xlim=(-2, 102))
axis.grid(False)
_ = figure.legend(loc="outside upper center", ncols=2)

# %%
later = halved.isfinite() & (halved - first > 0.01)
alone = first.isfinite() & halved.isinf()
begin = (~dark[:, 0]).sum()
print(f"of {begin} images that start right, {(turns > 1).sum()} are fooled and then not")
print(f"the binary search finds {later.sum()} later and {alone.sum()} not at all")

# %% [markdown]
# Where a row changes once, both agree to a step. Where it changes more often, the binary search can jump over the
# first dark stretch; and where grey itself does not fool, it gives up. So for a plain function the linear search
# finds at least as much, and a small gap between the two is honest. The document's mixture model keeps 0.172 and
# 0.206 in Table 1. That can be.

# %% [markdown]
# ## One run, the whole curve
#
# A distance per image is worth more than success at one radius. The accuracy at *every* $\epsilon$ follows from one
# list of numbers $d_i$:
#
# $$A(\epsilon) = \frac1n\,\#\{i : d_i > \epsilon\} .$$

# %%
radii = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5]
curves = []
for name in ("cnn", "gmm"):
    search = partial(attacks.smallest_contrast_linear, steps=100, stride=1)
    outcomes = evaluation.smallest_outcomes(models[name], (x, y), search, radii)
    distance = linear_search(models[name], x, y, 100).cpu() / 2
    for eps in radii:
        mine = (distance > eps + 1e-6).float().mean().item()
        torch.testing.assert_close(mine, outcomes.estimate("accuracy", eps).value)
    curves.append(outcomes.table().query("metric == 'accuracy'").assign(model=name))

# %%
title = "30 images: a sketch, not a result"
curves = pd.concat(curves)
_ = figures.curves(curves, xlabel="ε", ylabel="accuracy, less contrast", title=title)

# %% [markdown]
# Such a curve can never rise. The curve of an attack that is run anew at each radius can, as chapter 05 saw with
# FGSM, which may overshoot. In the document's tables the mixture model has 0.813 under FGSM at 0.3 and 0.829 at 0.5.
# The larger ball contains the smaller one. Where accuracy rises with $\epsilon$, the attack has failed to use what it
# was given.

# %% [markdown]
# ## Numbers that cannot be right
#
# At $\epsilon = 0.5$ every image may become the same grey square. A classifier gives that square one answer. The
# answer is right for the images of one class and wrong for all others. So **no** classifier can keep more than the
# share of the largest class, however robust it is.

# %%
grey = torch.full_like(x, 0.5)
for name in names:
    answer = scores(models[name], grey).argmax(1)
    assert answer.unique().numel() == 1  # one image, one answer
    kept = (answer == y).sum()
    assert kept <= y.bincount().max()
    said = fashion.classes[answer[0]]
    print(f"{name} says {said} to grey, and keeps at most {kept} of {len(y)} images")

# %% [markdown]
# A model that answers at random cannot do better on average, since its answer cannot depend on the label. On MNIST
# the largest class is 1: 1,135 of all 10,000 test images, 126 of the first 1,000. The document does not say how many
# it used. Its released attack script takes the first 1,000, and the table agrees: the CNN has 0.125, more than any
# class has of all 10,000. So the bound is 0.126. Where answers are random, luck can lift a count over 1,000 images a
# little above it, but hardly by three standard deviations. Which models have a cell above the bound?

# %%
at_half = printed[0.5][["contrast-linear", "contrast-binary"]]
bound, luck = 0.126, 3 * math.sqrt(0.126 * 0.874 / 1000)
above = at_half[(at_half > bound).any(axis=1)]
above.style.format("{:.3f}")

# %%
beyond_luck = (above > bound + luck).sum().sum()
print(f"bound {bound}, with luck {bound + luck:.3f}: {beyond_luck} cells are beyond it")
assert beyond_luck == 6
assert set(above.index) == {"cnn-vae", "cnn-vae-binary", "cnn-vae-crf", "cvae"}

# %% [markdown]
# Six numbers cannot be right. The highest, 0.958, and its neighbour are printed in bold, as the best of their
# columns. These are no slips of the pen, because the four models have something in common: they draw random codes
# whenever they classify.

# %% [markdown]
# ## A search that asks again and again
#
# How can such a number be measured? A linear search asks a thousand times, and stops at the first wrong answer. A
# model with noise gives a wrong answer now and then, to any image. So the search stops early, at an image that is
# almost clean. Then the image is judged again, with fresh noise, and is right again. The attack has been defeated by
# its own luck.
#
# This can be computed. Take a made-up model that is right in 97 % of its draws on clean images, in half of them where
# 70 % of the contrast is gone, and seldom on grey. Call the chance $p(s)$. Then
#
# $$P(\text{stops at } s_k) = \big(1 - p(s_k)\big) \prod_{j<k} p(s_j), \qquad
# \text{accuracy} = \sum_k P(\text{stops at } s_k)\; p(s_k) .$$

# %%
share = torch.arange(1, 1001) / 1000


def chance(share):
    return 0.97 / (1 + torch.exp((share - 0.7) / 0.1))


not_yet = torch.cat([torch.ones(1), chance(share).cumprod(0)[:-1]])
stops = (1 - chance(share)) * not_yet  # where the linear search stops
dice = torch.Generator().manual_seed(seed)
low, high = torch.zeros(20_000), torch.ones(20_000)  # 20,000 binary searches
for _ in range(14):
    middle = (low + high) / 2
    hit = torch.rand(len(middle), generator=dice) > chance(middle)
    low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)

# %% [markdown]
# The line is $p(s)$; the bars show where each search stops. Read off the line, above the bars, how often the image
# found is right when it is judged again.

# %% tags=["hide-input"]
figure, axis = plt.subplots(figsize=(6.2, 3.2))
axis.plot(share, chance(share), color="black", label="p(s): right, of fresh draws")
bins = torch.linspace(0, 1, 26)
axis.hist(share, bins, weights=stops, color="C1", alpha=0.6, label="linear search stops")
weights = torch.full((len(high),), 1 / len(high))
axis.hist(high, bins, weights=weights, color="C0", alpha=0.6, label="binary search stops")
axis.set(xlabel="share of the way to grey", ylabel="share of searches", ylim=(0, 1.02))
_ = figure.legend(loc="outside upper center", ncols=3, fontsize=8)

# %% [markdown]
# The linear search stops at the left, where the model is still right nearly always. The binary search homes in on the
# place where the model tosses a coin, and there it is right about half of the time. At $\epsilon = 0.3$ the share is
# cut off at 0.6.

# %%
toy = {}
for eps in (0.3, 0.5):
    cut = chance(share.clamp(max=2 * eps))
    toy[eps, "linear"] = (stops * cut).sum().item()
    toy[eps, "binary"] = chance(high.clamp(max=2 * eps)).mean().item()
table = pd.DataFrame({"made-up model": toy})
ask = zip([0.3, 0.3, 0.5, 0.5], ["contrast-linear", "contrast-binary"] * 2, strict=True)
table["document's CNN-VAE"] = [printed.loc["cnn-vae", column] for column in ask]
assert (table["made-up model"] - table["document's CNN-VAE"]).abs().max() < 0.02
table.round(3)

# %% [markdown]
# Four numbers within two points. We turned three knobs to get there, so this proves nothing about the document's
# model. It shows that a noisy classifier which is lost on grey can print this row.
#
# Now a real one. `gfz` answers with fresh noise each time. Both searches attack it, and what they find is judged over
# ten other draws. Then its noise is frozen, and everything is repeated.

# %%
few = slice(0, 20)
searches = {
    "linear": partial(attacks.smallest_contrast_linear, steps=50, stride=1),
    "binary": partial(attacks.smallest_contrast_binary, steps=10),
}
asked = []
for name, search in searches.items():
    fresh = evaluation.smallest_outcomes(gfz, (x[few], y[few]), search, radii, seed=seed)
    with frozen_noise(gfz, seed):
        frozen = evaluation.smallest_outcomes(gfz, (x[few], y[few]), search, radii, draws=1)
    for noise, outcomes in {"fresh": fresh, "frozen": frozen}.items():
        rows = outcomes.table().query("metric == 'accuracy'")
        asked.append(rows.assign(search=f"{name}, {noise} noise"))
asked = pd.concat(asked)

# %%
title = "gfz, 20 images: a sketch"
_ = figures.curves(
    asked, by="search", xlabel="ε", ylabel="accuracy, judged again", title=title
)

# %%
at_half = asked[asked.eps == 0.5].set_index("search").value
one_class = y[few].bincount().max().item() / len(y[few])
assert at_half["linear, frozen noise"] <= one_class + 1e-6  # as it must be
assert at_half["binary, frozen noise"] <= one_class + 1e-6
assert at_half["linear, fresh noise"] > 2 * one_class  # the impossible, measured
print(at_half.round(2).to_string())

# %% [markdown]
# With frozen noise the two searches agree, and at 0.5 they leave no more than one class can hold: here nothing. With fresh
# noise the very same model "keeps" about a half and a third of its images at a radius at which each may become the grey
# square, because the searches stopped before they got there. At the quick profile the linear search leaves it more than the
# binary one, and it asked only 50 times: with a thousand it would have more luck still. This is the pattern of the
# document: 0.966 and 0.749 for its CNN-VAE, but 0.920 and 0.92 for its CNN, which has no noise.
#
# Three rules follow. Freeze the noise while searching, or ask each question several times; then judge on fresh draws.
# Judge at the largest radius, too, where the answer is known. And distrust a table in which a thousand questions do
# less harm than fifteen.

# %% [markdown]
# ## The smallest change in any direction
#
# Fading follows one line. Carlini and Wagner {cite}`carlini2017towards` look in all directions for the smallest
# $\ell_2$ change. Let $M$ be the margin of chapter 05: best wrong score less the right one, positive where the image
# is fooled. They minimise
#
# $$\lVert x' - x\rVert_2^2 + c\,\max\big(-M(x', y),\, 0\big), \qquad x' = \tfrac12\big(\tanh w + 1\big) .$$
#
# The first term keeps the change small, the second is there until the image is fooled. Written in $w$, pixels stay in
# $[0, 1]$ by themselves, so Adam {cite}`kingma2015adam` can run without clipping. The nearest fooling image on the
# way is kept. (The document prints a targeted form, with unbalanced brackets, and does not say whether a target was
# used. We leave the class $y$ for any other.)


# %%
def margin(scores, y):
    own = scores.gather(1, y[:, None])[:, 0]
    return scores.scatter(1, y[:, None], -torch.inf).amax(1) - own


def descend(model, x, y, c, steps, rate, margin=margin):
    w = torch.atanh(0.9999 * (2 * x - 1)).requires_grad_()  # atanh(1) would be infinite
    adam, best = torch.optim.Adam([w], rate), torch.full_like(c, torch.inf)
    for step in range(1, steps + 1):
        x_adv = (torch.tanh(w) + 1) / 2
        length = (x_adv - x).flatten(1).norm(dim=1)
        s = model(x_adv)
        loss = length**2 + c * (-margin(s, y)).clamp(min=0)
        hit = (s.argmax(1) != y) & (length < best)
        best = torch.where(hit, length.detach(), best)
        adam.param_groups[0]["lr"] = rate * (1 - step / steps)  # to settle, not to swing
        adam.zero_grad()
        loss.sum().backward()
        adam.step()
    return best


# %% [markdown]
# What does $c$ do? The picture runs one descent on `cnn` for each of five values, on images that are right. Look at
# both curves: how many images are fooled, and how far away.

# %% tags=["hide-input"]
mine = (scores(cnn, x).argmax(1) == y) & (scores(gmm, x).argmax(1) == y)
a, b = x[mine][:12], y[mine][:12]
values = [0.01, 0.1, 1.0, 10.0, 100.0]
lengths = [
    descend(cnn, a, b, torch.full((len(a),), c, device=x.device), 60, 0.1) for c in values
]
figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 2.5))
left.plot(values, [d.isfinite().float().mean().item() for d in lengths], "o-")
left.set(ylabel="share fooled", ylim=(-0.03, 1.03))
means = [d[d.isfinite()].mean().item() for d in lengths]
right.plot(values, means, "s-", color="C1")
right.set(ylabel="mean distance of these, ℓ2", ylim=(0, None))
for axis in (left, right):
    axis.set(xscale="log", xlabel="c")

# %% [markdown]
# With a small $c$ few images are fooled: staying close is all that counts. With a large one all are, from too far
# away. The best $c$ differs from image to image, so each image searches for its own: ten times larger until it works,
# ten times smaller until it fails, then halving in between.


# %%
def cw_by_hand(model, x, y, steps, searches, rate):
    c = torch.full((len(x),), 10.0, device=x.device)
    low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
    best = high.clone()
    for _ in range(searches):
        found = descend(model, x, y, c, steps, rate)
        best, works = torch.minimum(best, found), found.isfinite()
        low, high = torch.where(works, low, c), torch.where(works, c, high)
        halved = torch.where(low == 0, c / 10, (low * high).sqrt())
        c = torch.where(high.isinf(), 10 * c, halved)
    return best


settings = {"steps": 100, "searches": 5}
by_hand = cw_by_hand(cnn, a, b, **settings, rate=0.1)
library = attacks.smallest_cw(cnn, a, b, **settings)
print(f"mean distance by hand {by_hand.mean():.3f}, library {library.distance.mean():.3f}")
assert library.found.all()
assert 0.97 < by_hand.mean() / library.distance.mean() < 1.05

# %% [markdown]
# The two need not agree digit by digit: the library lets images leave that gain nothing, and pulls what it found back
# along the line to the clean image. On average the distances agree within a few per cent. Here are three images of
# `cnn` and `gmm`. Look at how much must change.

# %% tags=["hide-input"]
nearest = {
    "cnn": library,
    "gmm": attacks.smallest_cw(gmm, a, b, **settings),
}
figure, axes = plt.subplots(2, 6, figsize=(7.4, 2.9))
for row, (name, found) in zip(axes, nearest.items(), strict=True):
    says = scores(models[name], found.x_adv).argmax(1)
    for k, (left, right) in enumerate(zip(row[::2], row[1::2], strict=True)):
        left.imshow(found.x_adv[k, 0].cpu(), cmap="gray", vmin=0, vmax=1)
        left.set_title(f"{name}: {fashion.classes[says[k]]}", fontsize=7)
        change = (found.x_adv - a)[k, 0].cpu()
        right.imshow(change, cmap="RdBu_r", vmin=-0.3, vmax=0.3)
        right.set_title(f"change, ℓ2 = {found.distance[k]:.2f}", fontsize=7)
for axis in axes.flat:
    axis.axis("off")

# %%
distance = {name: found.distance.median().item() for name, found in nearest.items()}
print({name: round(value, 2) for name, value in distance.items()})
assert all(found.found.all() for found in nearest.values())

# %% [markdown]
# Every image falls, of both models. In the median the mixture model needs the longer change, and it is still one that
# you have to look for.
#
# **Few steps.** The document `causalib` reports C&W with "20" iterations and says no more: no constant, no rate. We
# read it as 20 steps with one constant. How much does that cost?

# %%
for rate in (0.01, 0.1):
    hasty = attacks.smallest_cw(cnn, a, b, steps=20, searches=1, learning_rate=rate)
    found, away = hasty.found.sum().item(), hasty.distance[hasty.found].mean()
    print(f"20 steps at rate {rate}: {found} of {len(a)} found, mean distance {away:.2f}")
    assert found < len(a) or away > 1.2 * library.distance.mean()

# %% [markdown]
# Adam moves $w$ by about its rate in each step. A black pixel starts at $w = -5$, where tanh is flat; twenty steps at
# 0.01, the rate of Carlini and Wagner, leave it black, and only the easiest images fall. With 0.1 they do, at more
# than twice the distance. A
# short C&W measures the attack's haste as much as the model. `causalib` calls its attack adaptive, too, and does not
# say to what. Its released code takes sign steps inside an $\epsilon$ ball, up a loss much like this one: chapter 05
# would call that PGD on the margin.
#
# **Many steps.** By default Foolbox takes up to nine searches of 10,000 steps. A model with ten classes and ten codes
# for each then decodes nine million pictures to attack one image. Hence the weeks of which `zoo` speaks. Ours
# took five searches of 100 steps.

# %% [markdown]
# ## A one-line bug
#
# To find the best wrong score one must leave the right class out. A common line multiplies it by zero:
#
# $$M_{\text{bug}}(x, y) = \max_c\, (1 - \text{onehot}(y)_c)\, s_c - s_y .$$
#
# Zero is not "left out". If all scores are negative, zero is the *best* of all. Scores of generative models are log
# densities, and those of `gfz` are near -500. Before you read on: what will the attack do?


# %%
def margin_with_bug(scores, y):
    onehot = F.one_hot(y, scores.shape[1])
    return ((1 - onehot) * scores).amax(1) - (onehot * scores).sum(1)


right = (scores(gfz, x).argmax(1) == y).nonzero()[:6, 0]
six, theirs = x[right], y[right]
print("margin       ", margin(scores(gfz, six), theirs)[:3])
print("with the bug ", margin_with_bug(scores(gfz, six), theirs)[:3])

# %% [markdown]
# The true margins are negative: these images are right. With the bug all are positive by hundreds. The attack
# believes that every image is fooled already, so only the first term is left, and the nearest image to $x$ is $x$.

# %%
c = torch.full((len(six),), 10.0, device=x.device)
with frozen_noise(gfz, seed):
    for name, loss in {"margin": margin, "with the bug": margin_with_bug}.items():
        found = descend(gfz, six, theirs, c, 20, 0.1, margin=loss).isfinite()
        print(f"gfz, {name}: {found.sum()} of {len(found)} fooled")
        assert found.any() == (name == "margin")

# %% [markdown]
# On `cnn` the bug does little harm, because the best wrong score is often positive. Subtract 1000 from all scores: the
# same classifier, to the last decision.


# %%
class Shifted(torch.nn.Module):
    def __init__(self, model, shift):
        super().__init__()
        self.model, self.shift = model, shift

    def forward(self, x):
        return self.model(x) - self.shift


c = torch.full((len(a),), 10.0, device=x.device)
for shift in (0, 1000):
    for name, loss in {"margin": margin, "with the bug": margin_with_bug}.items():
        found = descend(Shifted(cnn, shift), a, b, c, 40, 0.1, margin=loss).isfinite()
        print(f"cnn - {shift}, {name}: {found.sum()} of {len(found)} fooled")
        share = found.float().mean()
        assert share == 0 if (name, shift) == ("with the bug", 1000) else share > 0.7

# %% [markdown]
# Softmax does not hear a shift, and no loss of an attack should. This one does. The line stands in `torchattacks`
# 3.3.0, and in the released code of `causalib`. It reports that a generative classifier cannot be fooled.

# %% [markdown]
# ## Noise
#
# Additive noise takes one random direction and goes along it until the image falls. By hand, with Gaussian noise:


# %%
def noise_search(model, x, y, sizes, generator):
    noise = torch.stack([torch.randn(784, generator=generator) for _ in x])
    noise = F.normalize(noise, dim=1).view(x.shape).to(x.device)  # length 1
    found = torch.full((len(x),), torch.inf, device=x.device)
    for size in reversed(sizes):
        noisy = (x + size * noise).clamp(0, 1)
        hit = fooled(model, noisy, y)
        found[hit] = (noisy - x).flatten(1).norm(dim=1)[hit]
    found[fooled(model, x, y)] = 0
    return found


# %%
sizes = [k / 2 for k in range(1, 41)]  # ℓ2 lengths 0.5, 1, ..., 20
for model in (cnn, gmm):
    mine = noise_search(model, x, y, sizes, torch.Generator().manual_seed(seed))
    library = attacks.smallest_gaussian_noise(
        model, x, y, sizes=sizes, generator=torch.Generator().manual_seed(seed)
    )
    torch.testing.assert_close(mine, library.distance)

# %% [markdown]
# How long must noise be, compared with the change that C&W found? In $D = 784$ dimensions a random direction is
# nearly at right angles to any given one: only $1/\sqrt D = 1/28$ of its length points along it, give or take. If the
# border between two classes were a plane at distance $d$, noise of length $k\,d$ would cross it with probability
#
# $$P = 1 - \Phi\big(\sqrt D / k\big),$$
#
# where $\Phi$ is the distribution function of a standard normal {cite}`fawzi2016robustness`. The picture tries 20
# directions for each image, at lengths $k$ times its own C&W distance.

# %%
times, generator = [1, 2, 4, 8, 16, 32], torch.Generator().manual_seed(seed)
shares = {name: [] for name in nearest}
for name, found in nearest.items():
    for factor in times:
        noise = torch.randn(20, *a.shape, generator=generator).to(x.device)
        unit = noise / noise.flatten(2).norm(dim=2)[:, :, None, None, None]
        noisy = (a + factor * found.distance[:, None, None, None] * unit).clamp(0, 1)
        wrong = fooled(models[name], noisy.flatten(0, 1), b.repeat(20))
        shares[name].append(wrong.float().mean().item())
    assert shares[name][0] < 0.05  # at C&W's own length, noise does next to nothing

# %% tags=["hide-input"]
figure, axis = plt.subplots(figsize=(5.6, 3))
for k, (name, share) in enumerate(shares.items()):
    axis.plot(times, share, marker="os"[k], label=name)
grid = torch.logspace(0, math.log10(32), 100)
plane = 1 - torch.distributions.Normal(0, 1).cdf(28 / grid)
axis.plot(grid, plane, "--", color="black", label="a plane")
axis.set(xscale="log", xlabel="length, in C&W distances", ylabel="share fooled")
axis.set(ylim=(-0.03, 1.03))
axis.set_xticks(times, times)
axis.minorticks_off()
_ = axis.legend()

# %% [markdown]
# At the length where C&W fools every image, noise fools next to none. To matter, it must be many times longer: on
# `cnn` more than ten times. It does better than a single plane allows, because there are nine classes to fall into,
# borders bend, and clipping lights up the background. The mixture model suffers earlier, and its formula says why:
# noise of length $r$ adds about $r^2$ to the squared distance from *every* mean, and the components with the largest
# variance mind that least. They win, whatever the image shows.
#
# So noise says little about an adversary, and the document is right that it fools less. Noise is good for two other
# things. It tells how a classifier fares with bad images, which is a question of its own. And it is a test of
# *attacks*: one that fools fewer images than noise of the same length is broken.

# %% [markdown]
# ## Blur
#
# A Gaussian blur replaces each pixel by a weighted mean of its neighbours, with weights $\exp(-k^2/2\sigma^2)$ at
# distance $k$, along rows and columns. Each is a linear map of a line of pixels, so a matrix does it:
# $x_\sigma = A\,x\,A^{\top}$. At the border the line is mirrored.


# %%
def blur_matrix(length, sigma):
    radius, matrix = int(4 * sigma + 0.5), torch.zeros(length, length)
    for i in range(length):
        for k in range(-radius, radius + 1):
            j = (i + k) % (2 * length)  # a line and its mirror image, again and again
            matrix[i, min(j, 2 * length - 1 - j)] += math.exp(-((k / sigma) ** 2) / 2)
    return matrix / matrix.sum(1, keepdim=True)


# %% [markdown]
# The library builds the same matrices; SciPy filters without any.

# %%
from scipy.ndimage import gaussian_filter

from hybridgen_lib.attacks.smallest import gaussian_blur

for sigma in (0.5, 1.0, 4.0, 28.0):
    matrix = blur_matrix(28, sigma).to(x.device)
    mine = matrix @ x @ matrix.T
    library = gaussian_blur(x, torch.full((len(x),), sigma, device=x.device))
    torch.testing.assert_close(mine, library)
    scipy = torch.from_numpy(gaussian_filter(x[0, 0].cpu().numpy(), sigma, truncate=4.0))
    torch.testing.assert_close(mine[0, 0].cpu(), scipy, rtol=1e-4, atol=1e-5)

# %% [markdown]
# Three images under growing $\sigma$, in pixels. Above each stands how far it is from the clean one in $\ell_\infty$.
# Look at where that number passes 0.3, and at how blurred the image is there.

# %% tags=["hide-input"]
sigmas = [0.3, 0.5, 0.7, 1.0, 2.0, 4.0, 12.0]
tiles, titles = [], []
for image in x[:3]:
    blurred = gaussian_blur(
        image.expand(len(sigmas), -1, -1, -1), torch.tensor(sigmas, device=x.device)
    )
    tiles += [image, *blurred]
    titles += ["clean", *(f"{d:.2f}" for d in Linf(0).norm(blurred - image).cpu())]
titles[1:8] = [f"σ = {s:g}\n{t}" for s, t in zip(sigmas, titles[1:8], strict=True)]
_ = figures.image_grid(torch.stack(tiles).cpu(), titles, columns=8)

# %%
widths = torch.linspace(0.2, 3, 57)
lengths = torch.stack(
    [Linf(0).norm(gaussian_blur(x, w.expand(len(x)).to(x)) - x).cpu() for w in widths]
)
first = widths[(lengths > 0.3).int().argmax(0)]
print(f"ℓ∞ passes 0.3 at σ = {first.median():.2f} pixels, in the median of {len(x)} images")

# %% [markdown]
# A blur moves a few pixels at sharp edges by a lot, and the others hardly. The $\ell_\infty$ norm sees only the
# largest move. So at $\epsilon = 0.3$ the blur that is allowed is one that we would not notice. A high accuracy there
# says next to nothing about blur. It says that the norm does not fit the attack.

# %% [markdown]
# ## What is outside the ball
#
# Then what do the document's numbers on blur mean? The blur that fools mostly lies far outside the ball. Foolbox
# {cite}`rauber2020foolbox`, which its released code uses, clips what a search found back to the ball, and asks the
# model once more. A heavy blur, clipped pixel by pixel to $\pm\epsilon$, is no longer a blur. It is another image in
# the ball, and may fool.
#
# Below, each column is an image, the blur that fools `cnn`, and that blur clipped to 0.3. A cross marks an image that is
# fooled.

# %% tags=["hide-input"]
found = attacks.smallest_blur(cnn, a, b)
far = (found.found & (found.distance > 0.3)).nonzero()[:6, 0]
clipped = a + Linf(0.3).project(found.x_adv - a)
tiles, titles = [], []
for images in (a, found.x_adv, clipped):
    said = scores(cnn, images[far]).argmax(1)
    tiles += list(images[far].cpu())
    titles += [
        ("✗ " if s != b[i] else "") + fashion.classes[s]
        for s, i in zip(said, far, strict=True)
    ]
figure = figures.image_grid(
    torch.stack(tiles), titles, columns=len(far), row_titles=["clean", "blurred", "clipped"]
)
for axis in figure.axes:
    axis.title.set_color("#b03000" if "✗" in axis.get_title() else "black")

# %% [markdown]
# Two conventions, then. *Keep*: an image counts as attacked if what was found lies within $\epsilon$, else it stays
# clean. *Clip*: everything is projected onto the ball and judged. The next table compares the accuracy that each
# leaves, at 0.3 and 0.5.

# %%
rows = []
for name in ("cnn", "gmm"):
    for search in ("contrast_linear", "contrast_binary", "blur"):
        for project in (False, True):
            attack = attacks.within(getattr(attacks, f"smallest_{search}"), project=project)
            outcomes = evaluation.attack_outcomes(
                models[name], (x, y), attack, Linf, [0.3, 0.5]
            )
            for eps in (0.3, 0.5):
                left = outcomes.estimate("accuracy", eps).value
                key = {"model": name, "attack": search, "ε": eps}
                rows.append(key | {"convention": "clip" if project else "keep", "a": left})
kept = pd.DataFrame(rows).pivot(
    index=["model", "attack"], columns=["ε", "convention"], values="a"
)
kept.round(2)

# %%
keep, clip = (kept.xs(name, axis=1, level=1) for name in ("keep", "clip"))
assert (clip <= keep + 0.04).all(axis=None)
assert ((keep - clip).xs("blur", level="attack")[0.5] > 0.1).all()

# %% [markdown]
# For contrast it hardly matters. For blur it is most of the effect, and that effect is not about blur. To compare
# with the document, our recorded runs clip, as Foolbox does. An own table should keep: then a number speaks of the
# attack it is named after.

# %% [markdown]
# ## What a stupid attack reveals
#
# Put all of it side by side, at $\ell_\infty$ 0.3. FGSM and PGD are as in chapter 05, on the cross-entropy; the noise
# of `gfz` is frozen. Within a column the cleverest attack should leave the least. Look for a column where it does
# not.

# %%
plain = {
    "FGSM": attacks.fgsm,
    "PGD, 10 steps": partial(attacks.pgd, steps=10),
    "uniform noise": attacks.within(attacks.smallest_uniform_noise),
    "less contrast": attacks.within(searches["linear"]),
    "blur": attacks.within(partial(attacks.smallest_blur, steps=100, stride=4)),
}
left = {}
for name, model in models.items():
    with frozen_noise(model, seed):
        for attack_name, attack in plain.items():
            outcomes = evaluation.attack_outcomes(
                model, (x[few], y[few]), attack, Linf, [0.3]
            )
            left[attack_name, name] = outcomes.estimate("accuracy", 0.3).value
        left["clean", name] = outcomes.estimate("clean_accuracy").value
left = pd.Series(left).unstack()[names].loc[["clean", *plain]]
left.round(2)

# %%
assert left.loc["less contrast", "gmm"] < left.loc["PGD, 10 steps", "gmm"]
assert left.loc["PGD, 10 steps", "cnn"] < left.loc["less contrast", "cnn"]
assert (left.loc["less contrast"] < left.loc["blur"]).all()

# %% [markdown]
# Twenty images are a sketch, but one column is upside down. PGD leaves the mixture model most of its images; fading to
# grey, which knows nothing about the model, takes nearly all. Less contrast *is* a change inside the ball, so PGD was
# allowed to make it. The document's Table 1 has the same pattern for its GMM: 0.667 under PGD, 0.172 under linear contrast
# reduction. The document does not remark on it; "the most surprising result" is, to it, that the GMM's robustness
# "consistently stays on top".
#
# The stupid attack beats the clever one: a sign that the clever one was blind. Count the images of `gmm` whose
# cross-entropy has no gradient at all.

# %%
inside = x.clone().requires_grad_()
loss = F.cross_entropy(gmm(inside), y, reduction="sum")
nothing = (torch.autograd.grad(loss, inside)[0] == 0).flatten(1).all(1)
right = scores(gmm, x).argmax(1) == y
lead = -margin(scores(gmm, x), y)[right]
print(f"no gradient: {(nothing & right).sum()} of {right.sum()} images that are right")
print(f"their median lead: {lead.median():.0f} nats")
assert (nothing & right).sum() > right.sum() / 2

# %% [markdown]
# Half of the leads are larger than that. There the softmax is exactly 1 and its gradient exactly 0, as chapter 05
# foresaw, and PGD had nothing to follow. Chapter 07 makes a method of this suspicion.

# %% [markdown]
# ## At full scale
#
# From here on the chapter shows recorded runs on MNIST: the document's data, its thirteen classifiers (chapters 01 to 03
# build those that are not in chapter 04), its attacks and radii. Models that answer in one pass get the first 1,000 test
# images, as in its script; those that sample get 300. What a search finds outside the ball is clipped, as there. At the
# `cpu` profile the convolutional networks have half of the document's width, and get no verdict on whether a number was
# reproduced.

# %% tags=["recorded"]
discriminative = ["logreg", "nn", "cnn", "cnn-mrf", "cnn-binary"]
discriminative += ["vae-classifier", "vae-classifier-pretrained"]
generative = ["nb", "mrf", "gmm", "cvae", "cnn-vae", "cnn-vae-binary", "cnn-vae-crf"]
recorded = results.load(document="zoo").query("data == 'mnist' and variant == ''")
best = next((p for p in ("paper", "cpu") if p in set(recorded.profile)), "")  # the larger
recorded = recorded[(recorded.profile == best) & (recorded.metric == "accuracy")]
published, worst = recorded.protocol == "as_published", recorded.attack == "worst-case"
recorded = recorded[published | worst]
simple = recorded[recorded.attack.isin(gradient_free)]
seeds = sorted(recorded.seed.unique()) or [0]

# %% [markdown]
# These are the $\ell_\infty$ panels of Figures 4 and 7 that have no gradient in them, discriminative models above, generative
# ones below. (Gaussian noise, in $\ell_2$, is in the verdict.) Lines are what we measured, with 95 % intervals. Crosses are
# what the document prints. Look first for crosses that lie off their lines, and then at the two panels in the middle, at 0.5.

# %% tags=["recorded", "hide-input"]
MARKERS = "osD^vPX"


def draw_panel(axis, attack, family, number):
    for k, name in enumerate(family):
        part = simple.query("attack == @attack and model == @name and seed == @number")
        look = {"color": f"C{k}", "marker": MARKERS[k], "ms": 4}
        axis.plot(part.eps, part.value, label=name, **look)
        axis.fill_between(part.eps, part.low, part.high, color=f"C{k}", alpha=0.15, lw=0)
        if name in printed.index:
            said = printed.loc[name].xs(attack, level="attack")
            axis.plot(said.index, said, "x", ms=7, mew=1.6, color=f"C{k}")
    axis.set(title=attack, xlim=(0.05, 0.55), ylim=(-0.03, 1.03), xticks=[0.1, 0.3, 0.5])


# %% tags=["recorded", "hide-input"]
for number in seeds:
    figure, axes = plt.subplots(2, 4, figsize=(9.8, 5.0), sharex=True, sharey=True)
    for line, family in zip(axes, (discriminative, generative), strict=True):
        for axis, attack in zip(line, gradient_free, strict=True):
            draw_panel(axis, attack, family, number)
        line[0].set_ylabel("accuracy")
        line[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    for axis in axes[1]:
        axis.set_xlabel("ε")
    figure.suptitle(f"seed {number}" if number else "")

# %% [markdown]
# The same in numbers, in per cent. A cell says – where the document prints nothing, or no model of ours was measured.

# %% tags=["recorded"]
print("accuracy in per cent, linf; –: no number")
for number, eps in [(number, eps) for number in seeds for eps in (0.3, 0.5)]:
    rows = simple[(simple.seed == number) & (simple.eps == eps)]
    said = {(m, a): v for a in gradient_free for m, v in printed[eps, a].items()}
    table = report.beside(rows, said, [*discriminative, *generative], gradient_free)
    display(table.rename_axis(f"ε = {eps:g}, seed {number}"))

# %%
if best == "cpu":  # what the next paragraph says
    ours = simple[simple.seed == min(seeds)].set_index(["eps", "attack", "model"]).value
    ours = ours.unstack("model").T
    close = ((ours - printed.reindex(ours.index)).abs() < 0.05).sum()
    assert (close[0.3, "blur"], close[0.5, "blur"], close[0.5, "uniform-noise"]) == (
        10,
        5,
        9,
    )

# %% [markdown]
# Under blur at 0.3 ten of twelve models lie within five points of their crosses; at 0.5 five do, among them `cnn-binary`,
# which falls from 98 to 32 %, as in the document. Naive Bayes keeps 66 % there, where the document prints 19. With contrast
# at 0.3 five of twelve agree under both searches: the CNN, the MRF, and the three that see black and white (`cnn-binary`,
# `cnn-vae-binary`, `cnn-vae-crf`). The pretrained VAE classifier is farthest off, 75 and 52 % (theirs 8); logistic
# regression keeps 27 % (theirs 52), naive Bayes 37 (66). Under uniform noise nine of thirteen agree at 0.5; the MRF (34 %,
# theirs 81), logistic regression (46, 82) and naive Bayes (71, 43) are far off. The document gives none of their settings.
# Its released notebooks give some: they train logistic regression more gently than we do (gradient descent at 0.001, 25
# epochs), and add 1e-9 to the variances of naive Bayes, where we add a tenth of the largest. That may be the reason; we have
# not tried it. On the CNN the two searches for contrast agree within a point. At 0.5 the document's keeps 12.5 % and
# ours about 8 %. Here a number says one thing only: which digit the network calls grey. Theirs must say 1: among the first
# 1,000 images no other class reaches 12.5 %. Ours says another. It is not about robustness at all.
#
# Some lines end far above that, at 0.5, where the bound of this chapter forbids it. They belong to models that draw noise,
# and to no others. So we can do what the document did: here are ours, the two searches as published, and then the worst
# case.

# %% tags=["recorded"]
noisy = ["cnn-vae", "cvae", "vae-classifier", "vae-classifier-pretrained", "cnn"]
columns = ["contrast-linear", "contrast-binary", "worst-case"]
end = recorded[recorded.model.isin(noisy) & recorded.attack.isin(columns)]
end = end[(end.eps == 0.5) & (end.norm == "linf")]
lucky = end.assign(cell=[report.percent(r.value, r.low, r.high) for r in end.itertuples()])
lucky = lucky.pivot(index=["model", "seed"], columns="attack", values="cell")
lucky = lucky.reindex([n for n in noisy if n in set(end.model)], level=0)
lucky.reindex(columns=columns).fillna(results.NOT_RUN) if len(end) else results.NOT_RUN

# %% [markdown]
# The CNN-VAE and the CVAE "keep" 42 to 74 % of their images, as in the document: it prints 95.8 and 54.0 % for the one,
# 74.6 and 46.7 % for the other, the linear search above the binary one each time. The linear search asks more often and is
# fooled by luck earlier. Asked by an attack that means it, the models have nothing left. (Our VAE classifiers draw codes,
# too, as the text says, and show the same. The document's print 7 to 8 %. Its released notebook draws in training only, and
# classifies the mean code afterwards: nothing is left to chance there.)
#
# Now the stupid attack and the clever one, at full scale, for two models of this chapter, in per cent of all images. The
# last row is the adaptive protocol of the book, on the first 500 images.

# %% tags=["recorded"]
order = ["fgsm", "pgd", "contrast-linear", "worst-case"]
two = recorded.model.isin(["cnn", "gmm"]) & recorded.attack.isin(order)
rows = recorded[two & recorded.eps.isin([0.1, 0.3, 0.5]) & (recorded.norm == "linf")]
cells = [report.percent(row.value, row.low, row.high) for row in rows.itertuples()]
clever = rows.assign(cell=cells).pivot(
    index=["seed", "attack"], columns=["model", "eps"], values="cell"
)
clever = clever.reindex(order, level="attack").fillna(results.NOT_RUN)
clever if len(rows) else results.NOT_RUN


# %%
def measured(model, attack, eps):
    part = recorded.query("model == @model and attack == @attack and eps == @eps")
    return part[
        part.protocol == "adaptive" if attack == "worst-case" else part.norm != ""
    ].value


if best == "cpu":  # the text speaks of these runs
    assert (
        measured("gmm", "contrast-linear", 0.3).max()
        < measured("gmm", "pgd", 0.3).min() - 0.2
    )
    assert measured("gmm", "worst-case", 0.3).max() < 0.05
    for name in ("cnn-vae", "cvae"):  # luck
        linear, binary = (
            measured(name, f"contrast-{how}", 0.5) for how in ("linear", "binary")
        )
        assert linear.min() > binary.max() > 0.3
        assert (measured(name, "worst-case", 0.5) < 0.05).all()
    assert measured("cnn", "pgd", 0.3).max() < measured("cnn", "contrast-linear", 0.3).min()

# %% [markdown]
# The column of the mixture model is upside down on MNIST, too. PGD as published leaves two thirds of its images at 0.3;
# fading them to grey leaves a quarter; and an attack that can see leaves none.
#
# ### The attack that would take weeks
#
# C&W on the CNN-VAE is missing in the document's Figure 4: it would "require weeks". Ours asks for two classes where all
# ten are not needed, and lets images go that gain nothing more. Here it is on 100 images of MNIST, nine searches of 200 steps
# each. The noise of a model is frozen, for the search and for the verdict, so these numbers are about one draw. The table has
# what is left at each $\ell_2$ radius, in per cent, and the seconds an image, on one core of a machine that had other work.

# %% tags=["recorded"]
cw = recorded[(recorded.attack == "cw") & (recorded.norm == "l2")]
cw = cw.assign(cell=[report.percent(r.value, r.low, r.high) for r in cw.itertuples()])
table = cw.pivot(index=["model", "seed"], columns="eps", values="cell")
once = cw.drop_duplicates(["model", "seed"]).set_index(["model", "seed"])
table["seconds an image"] = (once.seconds / once.n).round(1)
in_order = [n for n in [*discriminative, *generative] if n in set(cw.model)]
table.reindex(in_order, level=0) if len(cw) else results.NOT_RUN

# %%
if best == "cpu":  # what the next paragraph says
    held_at_2 = cw[cw.eps == 2].groupby("model").value.mean()
    assert held_at_2[["gmm", "nb"]].min() > held_at_2[["logreg", "nn", "cnn"]].max()
    assert held_at_2["cnn-binary"] > held_at_2[["gmm", "nb"]].max()
    assert (cw[cw.eps == 5].value < 0.05).all()

# %% [markdown]
# That is two hours for the document's 1,000 images on the CNN-VAE, seven with the CRF, at no more than 1,800 steps an
# image. At Foolbox's 90,000 it would be four days and two weeks, and more where all ten classes are asked at every step. So
# the document's "weeks" is plausible. A shorter attack was what it lacked. Where the models of one pass differ, at radii 1
# to 3, is where their $\ell_2$ curves under PGD on the margin differ (chapters 01 to 03): the mixtures and naive Bayes hold
# longer than the plain networks, `cnn-binary` the longest. At 5 at most two images in a hundred are left.
#
# ### The verdict
#
# The claims of the document about these attacks, counted by sentence. *As published* asks whether the number was
# reproduced. *Adaptive* asks whether so much accuracy survives the best attack that we have at that radius.


# %% tags=["recorded"]
def in_words(claim):
    if not claim.versus:
        return f"the number for {claim.attack} is right"
    if claim.relation == "=":
        return "the CRF, or logistic regression instead of mixtures, changes nothing"
    pairs = {"mrf": "MRF above naive Bayes", "cvae": "CVAE above its two twins"}
    return pairs.get(claim.model, "CNN-VAE family above CNN family")


board = results.scoreboard(document="zoo", chapter="06")
with pd.option_context("display.max_colwidth", None, "display.max_rows", None):
    display(report.verdicts(board, in_words))

# %% [markdown]
# A number can be reproduced and its claim not stand. Blur at 0.3 leaves the mixtures 92 % of the images, ours as theirs, and
# the images are no safer for it.

# %% [markdown]
# ## Exercises
#
# A check stands under each stub. The solutions are hidden; open them when you are done.
#
# **1. Open its eyes.** (easy, 5 minutes) PGD was blind on `gmm`. Give it another loss, so that it leaves no more
# images than less contrast does. Look up `loss` in the help of `attacks.pgd`.


# %%
def seeing_pgd(model, x, y, ball):
    return None  # your code here: images in the ball


def check_seeing(answer):
    tried = answer(gmm, x, y, Linf(0.3))
    assert (Linf(0.3).norm(tried - x) <= 0.3 + 1e-5).all()
    share = (~fooled(gmm, tried, y)).float().mean()
    print(f"gmm keeps {share:.2f} of its images")
    assert share <= left.loc["less contrast", "gmm"] + 0.02


if seeing_pgd(gmm, x, y, Linf(0.3)) is not None:
    check_seeing(seeing_pgd)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution
def seeing_pgd_solution(model, x, y, ball):
    return attacks.pgd(model, x, y, ball, steps=20, loss="margin")


check_seeing(seeing_pgd_solution)

# %% [markdown]
# **2. Spot the bug.** (medium, 10 minutes) This is the loss of C&W as the released code of `causalib` has it, in our
# words: one number for the whole batch, to be made small. One fault you know. The other shows once half of a batch is
# fooled by far. Write the loss without them: one number *for each image*, zero where it is fooled.


# %%
def loss_with_bugs(scores, y):
    onehot = F.one_hot(y, scores.shape[1])
    own = (onehot * scores).sum(1).mean()
    other = ((1 - onehot) * scores).amax(1).mean()
    return F.relu(own - other)


def loss_without(scores, y):
    return None  # your code here: a tensor with one number an image


# %%
def check_loss(answer):
    s = torch.tensor([[-3.0, -5.0], [-90.0, -10.0]], requires_grad=True)
    truth = torch.tensor([0, 0])  # the first image is right, the second fooled by far
    slope = torch.autograd.grad(loss_with_bugs(s, truth), s)[0]
    assert (slope == 0).all()  # with the bugs, nobody is attacked any more
    torch.testing.assert_close(answer(s, truth), torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(answer(s - 1000, truth), torch.tensor([2.0, 0.0]))
    slope = torch.autograd.grad(answer(s, truth).sum(), s)[0]
    torch.testing.assert_close(slope, torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    print("the first image is attacked, the second is left in peace")


if loss_without(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)) is not None:
    check_loss(loss_without)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution
def loss_without_solution(scores, y):
    return F.relu(-margin(scores, y))  # first the relu of each image, then any sum


check_loss(loss_without_solution)

# %% [markdown]
# **3. The smallest rotation.** (medium, 20 minutes) A change need not have a norm {cite}`engstrom2019exploring`. For
# each image find the smallest angle of a list, in degrees and to either side, at which the rotated image fools a
# model. An image that is wrong already has 0, one that no angle fools infinity. `rotate` is given.


# %%
def rotate(x, degrees):
    turn = math.radians(degrees)
    cos, sin = math.cos(turn), math.sin(turn)
    matrix = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], device=x.device)
    grid = F.affine_grid(matrix.expand(len(x), -1, -1), x.shape, align_corners=False)
    return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)


def smallest_rotation(model, x, y, angles):
    return None  # your code here: a tensor with one angle >= 0 an image


# %%
def check_rotation(answer):
    angles = [5, 10, 20, 30, 45]
    found = answer(cnn, x, y, angles).cpu()
    assert ((found == 0) == fooled(cnn, x, y).cpu()).all()
    earlier = torch.zeros(len(x), dtype=torch.bool)
    for angle in angles:
        hits = [fooled(cnn, rotate(x, side * angle), y).cpu() for side in (-1, 1)]
        hit = (hits[0] | hits[1]) & (found > 0)
        assert (found[hit & ~earlier] == angle).all()
        earlier |= hit
    assert found[~earlier & (found > 0)].isinf().all()
    print(f"median of the smallest angle: {found[found > 0].median():.0f} degrees")


if smallest_rotation(cnn, x, y, [5]) is not None:
    check_rotation(smallest_rotation)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution
def smallest_rotation_solution(model, x, y, angles):
    found = torch.full((len(x),), torch.inf, device=x.device)
    for angle in sorted(angles, reverse=True):
        for side in (-1, 1):
            found[fooled(model, rotate(x, side * angle), y)] = angle
    found[fooled(model, x, y)] = 0
    return found


check_rotation(smallest_rotation_solution)

# %% [markdown]
# **4. Not by luck.** (hard, 20 minutes) Write the binary search on contrast for a model that answers at random: a
# share counts only if the image is wrong in *all* of `draws` fresh answers, `model(images, generator)`. Where not
# even grey does that, return the share 1. Judged again, what it finds must be right less often than what single
# questions find.


# %%
def careful_search(model, x, y, steps, draws, generator):
    return None  # your code here: a share for each image


def check_careful(answer):
    judged = {}
    for draws in (1, 5):
        generator = torch.Generator().manual_seed(seed)
        share = answer(gfz, six, theirs, 8, draws, generator)
        assert ((share > 0) & (share <= 1)).all()
        found = less_contrast(six, share)
        judged[draws] = (
            evaluation.fraction_right(gfz, found, theirs, 20, generator).mean().item()
        )
    print(f"right when judged again: {judged[1]:.2f} by luck, {judged[5]:.2f} with care")
    assert judged[5] < judged[1]


if careful_search(gfz, six, theirs, 1, 1, torch.Generator()) is not None:
    check_careful(careful_search)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution
def careful_search_solution(model, x, y, steps, draws, generator):
    low, high = torch.zeros(len(x), device=x.device), torch.ones(len(x), device=x.device)
    for _ in range(steps):
        middle = (low + high) / 2
        tried = less_contrast(x, middle)
        with torch.no_grad():
            answers = [model(tried, generator).argmax(1) for _ in range(draws)]
        hit = (torch.stack(answers) != y).all(0)
        low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
    return high


check_careful(careful_search_solution)

# %% [markdown]
# ## Summary
#
# A search for the smallest change gives a distance for each image, and one run draws the whole curve. Attacks without
# gradients are weak, and all the more telling: where one of them beats PGD, PGD was blind. On a model that answers at
# random, a search that asks again and again finds luck instead of weakness, and a table made that way can show
# accuracies that no classifier can have.
#
# **Sources.** The smallest change: {cite}`carlini2017towards`. Noise against the worst direction:
# {cite}`fawzi2016robustness`. Foolbox, whose attacks these are: {cite}`rauber2020foolbox`. Rotations:
# {cite}`engstrom2019exploring`. How to evaluate, and what goes wrong: {cite}`carlini2019evaluating`. The tables:
# {cite}`zoo`; the C&W of 20 steps: {cite}`causalib`.
#
# **Where next.** Chapter 07 collects the signs that an evaluation was blind, and attacks what still stands by every
# means of this book.
