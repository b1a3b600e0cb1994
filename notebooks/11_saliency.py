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
# # Saliency: which pixels did it?
#
# A network says *trouser*, and is sure. Which pixels made it say so? A *saliency map* gives every pixel a number: red where
# the pixel speaks for the answer, blue where it speaks against. Such maps are easy to draw and easy to believe. This
# chapter draws them, and then asks how one could tell a right map from a pretty one.
#
# **You will** build integrated gradients by hand, watch the sum fill up along a path, choose baselines and lose pixels to
# them, and run expected gradients beside SHAP. You will explain a plain, a robust and a generative classifier, mark the
# methods on pictures whose true explanation is known, and see what is left of a map when the network forgets. **You need**
# chapters 04 (the generative models), 05 (gradients in the image) and 09 (the robust network). **It takes** an hour to
# read; the cells run in under a minute on a laptop.
#
# The document that this book calls `interpretable` {cite}`interpretable` draws both kinds of map for a standard and an
# adversarially trained network, in its Figures 2, 10 and 13. Here is what it says of them on CIFAR-10:
#
# - "The robust model's explanations are smoother than the standard model ones": integrated gradients.
# - "we note that the robust model focuses on specific parts of the object, and the regions contributing positively to the
#   prediction are not scattered".
# - Of SHAP: "the feature-importance heat maps are smoother than the Integrated Gradient method."
#
# There is **not one number** in this. We shall need a measure of smoothness. And we shall need to ask what it is worth.

# %% tags=["parameters"]
profile = "quick"
seed = 0
data_root = ""
device = "auto"

# %%
import copy
from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import shap
import torch
import torch.nn.functional as F
from torch import nn

from hybridgen_lib import data, explain, figures, recipes, report, results, training
from hybridgen_lib.classifier import bootstrap_interval, frozen_noise

# %%
figures.use_style()
torch.backends.cudnn.deterministic = True  # on a GPU, too, equal calls give equal gradients
torch.backends.cudnn.allow_tf32 = False
device = recipes.choose_device(device)
fashion = data.load(
    "fashion-mini" if profile == "quick" else "fashion-mnist", data_root or None
)
names = ["cnn", "cnn-at-l2", "gfz"]
models = {
    name: recipes.trained(name, fashion, profile, seed, device=device).eval()
    for name in names
}
plain, robust, gfz = models.values()

# %%
x = data.as_float(fashion.test_x[:100]).to(device)
y = fashion.test_y[:100].to(device)


def probabilities(model, x):
    with torch.no_grad(), frozen_noise(model, seed):
        return model(x).softmax(1)


sure = torch.stack(
    [probabilities(m, x).gather(1, y[:, None])[:, 0] > 0.8 for m in models.values()]
).all(0)
shown = [sure.logical_and(y == c).nonzero()[0, 0].item() for c in y[sure].unique()[:4]]
trousers = sure.logical_and(y == 1).nonzero()[0, 0].item()
print("shown:", [fashion.classes[y[i]] for i in shown])

# %% [markdown]
# Three models take part: `cnn`, the plain network; `cnn-at-l2`, its robust twin of chapter 09; and `gfz`, a generative
# classifier of chapter 04. The images shown are ones that all three get right, with a probability above 0.8.

# %% [markdown]
# ## The slope at the end of the road
#
# The first idea is the gradient. Let $F(x) = p(y|x)$. If a small change of pixel $d$ changes $F$ a lot, the pixel matters:
#
# $$\frac{\partial F(x)}{\partial x_d} .$$
#
# It answers another question than ours. It says what a *small further* change would do. We want to know what the pixels
# *have done*. Where a network is sure of its answer, the two come apart. Fade an image in, from black to $x$, and follow
# $F$. Look at where on the way it rises, and at the slope once it has arrived.


# %%
def output(model, x, y):
    return model(x).softmax(1).gather(1, y[:, None])[:, 0]


def gradient(model, x, y):
    x = x.detach().requires_grad_()
    value = output(model, x, y)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


# %%
image, label = x[trousers : trousers + 1], y[trousers : trousers + 1]
alpha = torch.linspace(0, 1, 51, device=device)
on_the_way = alpha.view(-1, 1, 1, 1) * image
rises, slopes = gradient(plain, on_the_way, label.expand(51))
size = slopes.flatten(1).norm(dim=1)
assert size[-1] < 0.1 * size.max()  # the slope at the image itself is a poor witness

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(7, 2.4))
axes[0].plot(alpha.cpu(), rises.cpu())
axes[0].set(title="F on the way", xlabel="α: black to image", ylabel="p(trouser | αx)")
axes[1].plot(alpha.cpu(), size.cpu(), color="C1")
_ = axes[1].set(title="the length of its gradient", xlabel="α: black to image")

# %% [markdown]
# $F$ rises in one part of the road and is flat at the end. There the softmax is *saturated*: the gradient is nearly zero,
# and what is left of it is the slope of a plateau. A map of it would show something, since a picture can always be scaled
# until one sees it. But what the network used is decided where $F$ rises.

# %% [markdown]
# ## Add up the slopes
#
# So walk the whole road and add up. From a *baseline* $x'$, where nothing is to be seen, to $x$ in a straight line
# {cite}`sundararajan2017axiomatic`:
#
# $$\phi_d = (x_d - x'_d) \int_0^1 \frac{\partial F\big(x' + \alpha (x - x')\big)}{\partial x_d}\, d\alpha .$$
#
# This is the document's equation 8. The factor in front is how far pixel $d$ has come; the integral is its mean slope on
# the way. Add up all pixels, and you have the integral of $F$'s derivative along the road. So
#
# $$\sum_d \phi_d = F(x) - F(x') .$$
#
# This is *completeness*: what the pixels are given is the whole change and nothing else. It is also the best test there
# is. A program that has got something wrong seldom gets the sum right.
#
# The integral is a sum over points. The trapezoid rule takes $m$ intervals, $m + 1$ gradients, the two at the ends by half.


# %%
def by_hand(model, x, y, start, steps):
    total = torch.zeros_like(x)
    for k in range(steps + 1):
        at = start + k / steps * (x - start)
        weight = 0.5 if k in (0, steps) else 1.0
        total += weight / steps * gradient(model, at, y)[1]
    return (x - start) * total


# %%
few, their = x[shown], y[shown]
black = torch.zeros_like(few)
mine = by_hand(plain, few, their, black, steps=50)
library = explain.integrated_gradients(plain, few, their, steps=50)
torch.testing.assert_close(mine, library.values, rtol=1e-4, atol=1e-6)
change = (output(plain, few, their) - output(plain, black, their)).detach()
torch.testing.assert_close(mine.sum((1, 2, 3)) - change, library.gap, rtol=0, atol=1e-5)

# %% [markdown]
# The library does all images and steps in a few passes, and returns the `gap` with the values: the sum less the change that
# it should be.
#
# The document's equation 11 has a slip. It divides the sum of $m$ trapezoids by $m + 1$, "because the zeroth and the last
# element are included". But there are $m$ intervals. By that equation even a straight line is integrated wrong, by a factor
# of $m / (m + 1)$. The well-known library captum has the same slip in its `riemann_trapezoid`; by default it uses another
# rule. With 50 intervals it costs 2 %. We divide by $m$.


# %%
class Straight(nn.Module):
    """Scores that are linear in the image: the exact answer is weight times pixel."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def forward(self, x):
        return x.flatten(1) @ self.weights.T


generator = torch.Generator().manual_seed(seed)
straight = Straight(torch.randn(10, 784, generator=generator).to(device))
exact = few * straight.weights[their].view(few.shape)
once = explain.integrated_gradients(straight, few, their, steps=1, output="score")
torch.testing.assert_close(once.values, exact, rtol=1e-4, atol=1e-5)

# %% [markdown]
# Our single step is exact on a straight line. The document's equation, with its $m + 1$:


# %%
def equation_11(model, x, y, m):
    at = [(k / m * x).requires_grad_() for k in range(m + 1)]
    F = [model(point).gather(1, y[:, None]).sum() for point in at]
    g = [torch.autograd.grad(value, point)[0] for value, point in zip(F, at)]
    return x * sum(g[i] + g[i - 1] for i in range(1, m + 1)) / (2 * (m + 1))


printed = equation_11(straight, few, their, m=50)
print(f"equation 11 gives {(printed.sum() / exact.sum()).item():.4f} of a straight line")
torch.testing.assert_close(printed * 51 / 50, exact, rtol=1e-4, atol=1e-5)

# %% [markdown]
# Move the slider from black to the image. From left to right: the image so far; the gradient there; what each pixel has
# been given so far; and the sum of that, which climbs to $F(x) - F(x')$. Look at where the gradient is strong, and at what
# the last tenth of the road adds.

# %% tags=["hide-input"]
steps = 50
pieces = (slopes[1:] + slopes[:-1]) / (2 * steps) * image
so_far = torch.cat([torch.zeros_like(image), pieces.cumsum(0)])[:, 0].cpu()
climb = so_far.sum((1, 2))
limits = [slopes.abs().quantile(0.999).item(), so_far[-1].abs().quantile(0.99).item()]

few_colours, few_greys = plt.get_cmap("RdBu_r", 21), plt.get_cmap("gray", 24)  # small PNGs


# %% tags=["hide-input"]
def frame(k):
    figure, axes = plt.subplots(
        1, 4, figsize=(6.8, 1.8), width_ratios=[1, 1, 1, 1.5], dpi=80
    )
    axes[0].imshow(on_the_way[k, 0].cpu(), cmap=few_greys, vmin=0, vmax=1)
    maps = (slopes[k, 0].cpu(), so_far[k])
    for axis, shown_map, limit in zip(axes[1:], maps, limits):
        axis.imshow(shown_map, cmap=few_colours, vmin=-limit, vmax=limit)
    titles = (f"α = {alpha[k]:.2f}", "gradient", "given so far")
    for axis, title in zip(axes, titles):
        axis.axis("off")
        axis.set_title(title, fontsize=8, loc="center")
    axes[3].plot(alpha.cpu(), rises.cpu() - rises[0].item(), color="#bbbbbb", lw=4)
    axes[3].plot(alpha[: k + 1].cpu(), climb[: k + 1], color="C0")
    axes[3].plot(alpha[k].cpu(), climb[k], "o", color="C0")
    axes[3].set(xlim=(-0.03, 1.03), ylim=(min(-0.05, climb.min() - 0.05), 1.1))
    axes[3].set_title("sum so far; grey: F − F(black)", fontsize=8, loc="center")
    return figure


# %% tags=["hide-input", "slider"]
stops = [0, 1, 2, 3, 4, 6, 8, 10, 13, 20, 35, 50]
alt = "An image fading in from black: the gradient at each point, what the pixels have been given, and its sum"
values = [f"{alpha[k]:.2f}" for k in stops]
figures.slider_figure([frame(k) for k in stops], values, "α", start=5, alt=alt)

# %% [markdown]
# The blue line stays on the grey one: completeness holds at every point of the road, not only at its end. Once the line is
# flat the gradient has faded too, and the map in the third panel hardly changes any more.

# %%
late = (so_far[-1] - so_far[45]).abs().sum() / so_far[-1].abs().sum()
print(
    f"added by the last tenth: {late:.0%} of the map; gap: {climb[-1] - (rises[-1] - rises[0]).item():+.4f}"
)
assert abs(climb[-1] - (rises[-1] - rises[0]).item()) < 0.1
assert late < 0.3

# %% [markdown]
# ## How many gradients?
#
# For $F(x) = x^3$ from 0 to 1 the trapezoid with $m$ intervals gives $1 + 1/(2 m^2)$ exactly: twice the intervals, a quarter
# of the error. Gauss-Legendre chooses its points better and is exact here from two points on. Is it on a network? Look at
# the slopes of the lines on the right, and at who wins.


# %%
def relative_gap(model, x, y, gradients, rule):
    steps = gradients - (rule == "trapezoid")
    found = explain.integrated_gradients(model, x, y, steps=steps, rule=rule)
    return (found.gap / (found.values.sum((1, 2, 3)) - found.gap)).abs().median().item()


class Cube(nn.Module):
    def forward(self, x):
        cubed = x.flatten(1).pow(3).sum(1)
        return torch.stack([torch.zeros_like(cubed), cubed], 1)


one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
for m in (1, 5, 50):
    found = explain.integrated_gradients(
        Cube(), one, torch.tensor([1]), steps=m, output="score"
    )
    torch.testing.assert_close(found.values.item(), 1 + 1 / (2 * m**2))

# %%
ladder = [5, 9, 17, 33, 65, 129]
rules = ["trapezoid", "gauss-legendre"]
many, told = x[sure][:8], y[sure][:8]
gaps = {
    (name, rule): [relative_gap(models[name], many, told, n, rule) for n in ladder]
    for name in ("cnn", "cnn-at-l2")
    for rule in rules
}

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.9), sharey=True)
smooth = torch.tensor(ladder, dtype=torch.float64)
axes[0].loglog(smooth, 1 / (2 * (smooth - 1) ** 2), "o-", label="trapezoid")
axes[0].set(title="x³: Gauss-Legendre is exact", xlabel="gradients", ylabel="gap / change")
styles = {"cnn": "C0", "cnn-at-l2": "C1"}
for (name, rule), line in gaps.items():
    look = "o-" if rule == "trapezoid" else "s--"
    axes[1].loglog(ladder, line, look, color=styles[name], label=f"{name}, {rule}")
axes[1].axhline(0.01, color="black", lw=1, ls=":")
axes[1].set(title="networks, the median of 8 images", xlabel="gradients")
_ = axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)

# %%
for name in ("cnn", "cnn-at-l2"):
    both = [gaps[name, rule] for rule in rules]
    print(name, {rule: f"{line[-1]:.2%}" for rule, line in zip(rules, both)})
    assert all(line[-1] < 0.02 < line[0] for line in both)
    assert all(line[0] > 5 * line[-1] for line in both)

# %% [markdown]
# On the smooth function the line falls by two decades a decade, and Gauss-Legendre has no error to draw. On the networks
# it has lost most of its lead. A network of ReLUs has kinks; its gradient jumps, and no rule can be clever about jumps.
# Few points miss the narrow stretch where $F$ rises; then the lines come down, and both rules with them. The dotted line
# is a gap of 1 %. With the trapezoid the usual 50 steps come near it, on one network from above and on the other from below.
# So look at the gap of *your* images. It costs nothing.

# %% [markdown]
# ## Where nothing is to be seen
#
# Black is a choice. On these pictures it is a natural one: the background is black. But the formula multiplies by
# $x_d - x'_d$. **A pixel that equals the baseline is given nothing**, whatever the network made of it. Choose another
# baseline with the slider, and look for the parts that vanish.

# %%
opinion = probabilities(plain, torch.full_like(x[:1], 0.5))[0]  # of plain grey
open_minded = sure & (opinion[y] < 0.05)
best = (open_minded * x.flatten(1).mean(1)).argmax()  # the brightest of those
bright, its = x[best][None], y[best][None]
greys = {f"grey {level:.2f}": level for level in (0, 0.25, 0.5, 0.75, 1)}
blurred = F.avg_pool2d(F.avg_pool2d(bright, 7, 1, 3), 7, 1, 3)
mean_image = data.as_float(fashion.train_x[:2000]).to(device).mean(0, keepdim=True)
baselines = {name: torch.full_like(bright, level) for name, level in greys.items()}
baselines |= {"mean image": mean_image, "blurred": blurred}
maps = {
    name: explain.integrated_gradients(plain, bright, its, baseline=start)
    for name, start in baselines.items()
}


# %% tags=["hide-input", "slider"]
def picked(name):
    figure, axes = plt.subplots(1, 3, figsize=(5, 1.9), dpi=80)
    limit = torch.stack([m.values for m in maps.values()]).abs().quantile(0.99).item()
    axes[0].imshow(bright[0, 0].cpu(), cmap=few_greys, vmin=0, vmax=1)
    axes[1].imshow(baselines[name][0, 0].cpu(), cmap=few_greys, vmin=0, vmax=1)
    axes[2].imshow(maps[name].values[0, 0].cpu(), cmap=few_colours, vmin=-limit, vmax=limit)
    for axis, title in zip(axes, ("image", f"baseline: {name}", "integrated gradients")):
        axis.axis("off")
        axis.set_title(title, fontsize=8, loc="center")
    return figure


alt = "An image, a baseline, and the integrated gradients from that baseline"
figures.slider_figure([picked(name) for name in maps], list(maps), "baseline", alt=alt)

# %%
rows = {}
for name, start in baselines.items():
    near = (bright - start).abs() < 0.03
    size = maps[name].values.abs()
    rows[name] = {
        "p at the baseline": output(plain, start, its).item(),
        "near pixels": near.float().mean().item(),
        "what they are given": (size[near].sum() / size.sum()).item(),
    }
table = pd.DataFrame(rows).T
assert (table["what they are given"] < 0.05).all()
table.round(3)

# %% [markdown]
# From black the background has no say. At grey 0.75 it is the other way round: the shirt, which has about that grey,
# vanishes, and the empty space beside it speaks. The table counts it: pixels within 0.03 of the baseline are given next to
# nothing, however many they are. There is no neutral baseline. The advice of the method's authors is one at which the
# network has no opinion {cite}`sundararajan2017axiomatic`; the first column says how much of the class it sees there
# already. Whichever you take, name it with the map {cite}`sturmfels2020visualizing`.

# %% [markdown]
# ## Many baselines: expected gradients
#
# If no baseline is neutral, take many. Compare $x$ with images $x'$ of the training set, and average
# {cite}`erion2021improving`:
#
# $$\phi_d = \mathbb E_{x',\; \alpha \sim U(0, 1)} \left[ (x_d - x'_d)\, \frac{\partial F(x' + \alpha (x - x'))}{\partial x_d} \right] .$$
#
# This is the document's equation 18. It is what SHAP's `GradientExplainer` estimates {cite}`lundberg2017unified`, and what
# the document calls SHAP values. Both averages are done at once, by draws.


# %%
def drawn(model, x, y, references, samples, generator):
    total = torch.zeros_like(x)
    for _ in range(samples):
        start = references[torch.randint(len(references), (len(x),), generator=generator)]
        a = torch.rand(len(x), 1, 1, 1, generator=generator).to(x.device)
        total += (x - start) * gradient(model, start + a * (x - start), y)[1]
    return total / samples


references = data.as_float(fashion.train_x[:50]).to(device)
generator = torch.Generator().manual_seed(seed)
rough = drawn(plain, few, their, references, 400, generator)
fine = explain.expected_gradients(plain, few, their, references, samples=400)

# %% [markdown]
# The library draws more cleverly: every reference is used equally often, and every part of $[0, 1]$ holds one $\alpha$. That
# removes much of the noise, and leaves pairs of samples that differ by chance alone. From those it computes a standard error
# for every pixel. SHAP's own explainer runs beside them, on the same references.


# %%
class Probability(nn.Module):
    """SHAP explains what a module returns; this one returns probabilities."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).softmax(1)


peer = shap.GradientExplainer(Probability(plain), references)
theirs, ranked = peer.shap_values(few, nsamples=400, ranked_outputs=1, rseed=seed)
by_shap = torch.from_numpy(theirs[..., 0]).to(few)
assert ranked[:, 0].tolist() == their.tolist()

# %%
expected = output(plain, few, their) - probabilities(plain, references).mean(0)[their]
long_run = explain.expected_gradients(
    plain, few, their, references, samples=2000, seed=seed + 1
)
three = {"by hand": rough, "library": fine.values, "SHAP": by_shap}
rows = {}
for name, values in three.items():
    off = (values - long_run.values).norm() / long_run.values.norm()
    gap = (values.sum((1, 2, 3)) - expected).abs().mean()
    rows[name] = {"off": off.item(), "gap": gap.item()}
table = pd.DataFrame(rows).T
print(table.round(3))
foretold = (fine.error.norm() / fine.values.norm()).item()
print(f"off by the library's own standard errors: {foretold:.3f}")
assert 0.5 < table.loc["library", "off"] / foretold < 2
assert (table["off"] < 0.5).all()
assert table.loc["library", "off"] < table["off"].drop("library").min()

# %% [markdown]
# Three programs, one answer, and different noise. *Off* is how far a map is from a run of 2,000 samples, as a share of its
# length. All three took 400 gradients an image. The standard errors foretold about how far off ours would be, without the
# long run. (SHAP's explainer also sets numpy's global seed, and leaves the model in evaluation mode.)
#
# Now the pictures. Look at the black background, first in the column of integrated gradients, then in the others.

# %% tags=["hide-input"]
columns = {"IG from black": library.values, "expected": fine.values, "SHAP": by_shap}
titles = [fashion.classes[label] for label in their]
_ = figures.saliency_grid(few, columns, row_titles=titles, label="probability")

# %% [markdown]
# From black, the background is silent. Against other garments it speaks: that there is *no* sleeve, *no* heel here tells the
# network something. The two kinds of map answer two questions. "What of this image, against darkness?" and "What of this
# image, against others?" Neither is the wrong one. A map without its question is.

# %%
dark = few < 0.02
for name, values in columns.items():
    share = (values.abs() * dark).sum() / values.abs().sum()
    print(f"{name:>14}: {share:.0%} of the map lies on black pixels")
    assert (share < 0.02) == (name == "IG from black")

# %% [markdown]
# ## Three models, one scale
#
# Now the document's comparison, with a third column that no document has tried. For `gfz`, $p(y|x)$ comes from ten scores
# $\log p(x, y)$. Its noise is frozen, and the map is the mean over two draws of it. One colour scale serves all three: a
# pale column has little to say. Is the robust network's map smoother? Where does the generative one look?


# %%
def probability_map(name):
    return explain.integrated_gradients(models[name], few, their, draws=2)


by_model = {name: probability_map(name) for name in names}
dark_room = {name: probabilities(m, black[:1])[0, their] for name, m in models.items()}
rows = {
    name: {
        "largest gap": found.gap.abs().max().item(),
        "smallest change": (found.values.sum((1, 2, 3)) - found.gap).min().item(),
        f"p({fashion.classes[their[-1]]} | black)": dark_room[name][-1].item(),
    }
    for name, found in by_model.items()
}
pd.DataFrame(rows).T.round(3)

# %% tags=["hide-input"]
columns = {name: found.values for name, found in by_model.items()}
_ = figures.saliency_grid(few, columns, row_titles=titles, label="probability")

# %% [markdown]
# The plain network's maps are speckled, red beside blue. The other two follow the garment and are mostly red: for the robust
# one that is what the document says, and the generative one, which was never attacked in training, looks much the same. The
# row of the sandal is pale for `cnn` and `gfz` (at the quick profile). The table says why: these two call a *black* image a
# sandal. So there is hardly any change to be explained, and completeness has nothing to hand out. Such a map is no weak
# explanation; it is an answer to a question badly put.

# %%
if profile == "quick":  # of these networks; others may think otherwise of black
    assert min(dark_room["cnn"][-1], dark_room["gfz"][-1]) > 0.9
    assert dark_room["cnn-at-l2"][-1] < 0.5
like = {
    name: explain.smoothness(found.values[:3]).mean() for name, found in by_model.items()
}
assert like["cnn"] < min(like["cnn-at-l2"], like["gfz"])

# %% [markdown]
# But a generative model can be asked more. Its score is $\log p(x, y) = \log p(x|y) + \log p(y)$, in nats, and the second
# term does not depend on $x$. So a map of the score is a map of $\log p(x|y)$: what makes the *picture* likely, as a
# picture of that class. A plain network's logit has no such meaning. And the difference of two such maps is a map of the
# log odds, because integrated gradients are linear in $F$: what speaks for the class, against its nearest rival?


# %%
def nats(target):
    found = explain.integrated_gradients(gfz, few, target, output="score", draws=2)
    assert found.gap.abs().max() < 2.0
    return found.values


rival = probabilities(gfz, few).scatter(1, their[:, None], 0).argmax(1)
given_class = nats(their)
columns = {"log p(x|y)": given_class, "less the rival's": given_class - nats(rival)}

# %% tags=["hide-input"]
against = [
    f"{fashion.classes[a]}\nagainst {fashion.classes[b]}" for a, b in zip(their, rival)
]
_ = figures.saliency_grid(few, columns, row_titles=against, label="nats")

# %% [markdown]
# The left map has much blue in it, and for most of these garments its sum is negative: they are *less* likely than a black
# image, which is a simple picture for any class. That is no mistake. It is an answer about the picture and not about the
# class. The right one is what the class hangs on: what speaks for both classes alike has cancelled. At the quick profile
# that is about a fifth of the map's size, as the next cell counts.

# %%
total, between = (values.abs().sum((1, 2, 3)).mean().item() for values in columns.values())
print(f"sizes of the maps: {total:.0f} nats for log p(x|y), {between:.0f} less the rival's")
assert between < total
assert given_class.sum((1, 2, 3)).median() < 0

# %% [markdown]
# ## Probability or score?
#
# The document explains the softmax probability. Others explain the logit. The choice changes the map. Walk to one image
# again, and follow both outputs of the plain network, each as a share of its whole change. Look at the last third of the
# road.

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.4), sharey=True)
for axis, name in zip(axes, ("cnn", "cnn-at-l2")):
    with torch.no_grad():
        scores = models[name](on_the_way)
    for k, (kind, line) in enumerate(
        {"probability": scores.softmax(1), "score": scores}.items()
    ):
        line = line[:, label].flatten().cpu()
        axis.plot(
            alpha.cpu(), (line - line[0]) / (line[-1] - line[0]), ["-", "--"][k], label=kind
        )
    axis.set(title=name, xlabel="α: black to image")
axes[0].set_ylabel("share of the change")
_ = axes[1].legend()

# %%
kinds = ("probability", "score")
both = {
    kind: explain.integrated_gradients(plain, x[:50], y[:50], output=kind).values
    for kind in kinds
}
pairs = torch.stack([v.flatten(1) for v in both.values()], 1)
agreement = torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs])
print(
    f"correlation of the two maps: median {agreement.median():.2f}, lowest {agreement.min():.2f}"
)
assert agreement.median() < 0.98

# %% [markdown]
# The probability is done early; all slopes after that are multiplied by next to nothing. The score goes on rising. So the
# probability's map is made where the image is still dark, and the score's on the whole road. The two maps are related, and
# not the same. A score also counts what *all* classes gain alike, which does not touch the answer. Say which you explain.

# %% [markdown]
# ## Smoother: a measure
#
# "Smoother" needs a number. Take the map $v$, summed over channels, with zeros around it. Its *total variation* adds up
# the jumps between neighbours, across and down. Each pixel takes part in four jumps, and a jump is at most the sum of both
# sizes. So
#
# $$\text{smoothness} = 1 - \frac{\sum_{\text{neighbours}} |v_i - v_j|}{4 \sum_i |v_i|}$$
#
# lies between 0 (a checkerboard, or lonely pixels) and nearly 1 (one wide even patch). It does not hear the scale. This
# measure is ours; the document has none.


# %%
def smoothness_by_hand(values):
    v = F.pad(values.sum(1), (1, 1, 1, 1))
    down, across = v[:, 1:] - v[:, :-1], v[..., 1:] - v[..., :-1]
    jumps = down.abs().sum((1, 2)) + across.abs().sum((1, 2))
    return 1 - jumps / (4 * v.abs().sum((1, 2)))


torch.testing.assert_close(smoothness_by_hand(mine), explain.smoothness(mine))


# %%
def explained(model, way):
    said = probabilities(model, x).argmax(1)  # as in the document: the prediction
    if way == "IG":
        return explain.integrated_gradients(model, x, said, steps=30).values
    return explain.expected_gradients(model, x, said, references[:25], samples=50).values


ways = ["IG", "expected"]
pair = ["cnn", "cnn-at-l2"]
drawn_maps = {(name, way): explained(models[name], way) for name in pair for way in ways}
smooth = {key: explain.smoothness(values).cpu() for key, values in drawn_maps.items()}

# %%
rows = [
    (way, name, smooth[name, way].mean().item(), *bootstrap_interval(smooth[name, way]))
    for way in ways
    for name in pair
]
table = pd.DataFrame(rows, columns=["way", "model", "smoothness", "low", "high"])
if profile == "quick":
    assert smooth["cnn-at-l2", "expected"].mean() > smooth["cnn-at-l2", "IG"].mean()
    assert smooth["cnn", "expected"].mean() < smooth["cnn", "IG"].mean()
for way in ways:
    gain = smooth["cnn-at-l2", way] - smooth["cnn", way]
    low, high = bootstrap_interval(gain)
    print(
        f"{way:>8}: robust less plain {gain.mean():+.3f} [{low:+.3f}, {high:+.3f}], 100 images"
    )
    assert low > 0
table.round(3)

# %% [markdown]
# On these 100 images the robust network's maps are smoother, by both methods, and the intervals stay clear of zero. So
# much for the document's first claim. Its last one, that SHAP is smoother than integrated gradients, holds at the quick
# profile for the robust network and not for the plain one. It also depends on the number of samples: noise is rough, and
# more samples are smoother.
#
# But is a smoother map a better one? Blur the plain network's map and measure again.

# %%
blurry = F.avg_pool2d(drawn_maps["cnn", "IG"], 3, 1, 1)
print(f"plain, blurred: {explain.smoothness(blurry).mean():.3f}")
assert explain.smoothness(blurry).mean() > smooth["cnn-at-l2", "IG"].mean()

# %% [markdown]
# It now beats the robust one. Nothing was learnt of the network; a picture was softened. Smoothness says how a map
# *looks*. To know whether it is *right*, one has to know the truth.

# %% [markdown]
# ## Pictures whose truth is known
#
# So let us make the truth. Take the same garments and throw their labels away. Draw new labels at random, and write each
# into the image: ten places on the border are made black, and the label's own is painted white. Whoever answers right has
# read the squares, for there is nothing else to read. (The idea is from {cite}`sturmfels2020visualizing`.)

# %%
decoyed = explain.decoy(fashion, seed=seed)
mask = explain.decoy_mask((1, 28, 28), 10).to(device)
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU()]
    reader = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 49, 10))
schedule = {"epochs": 1, "batch_size": 50, "learning_rate": 2e-3, "label": ""}
train_x, train_y = decoyed.train_x[:3000], decoyed.train_y[:3000]
_ = training.fit(
    reader, training.cross_entropy, train_x, train_y, device=device, **schedule
)

# %%
dx, dy = data.as_float(decoyed.test_x[:100]).to(device), decoyed.test_y[:100].to(device)
right = (probabilities(reader.eval(), dx).argmax(1) == dy).float().mean().item()
print(f"accuracy {right:.2f}; the squares are {mask.float().mean():.0%} of the image")
assert right > 0.97

# %%
swapped = torch.where(mask, dx, dx.roll(1, 0))  # its own squares, another image's garment
kept = (probabilities(reader, swapped).argmax(1) == dy).float().mean().item()
with torch.no_grad():
    own, others_garment = (
        reader(images).gather(1, dy[:, None]) for images in (dx, swapped)
    )
moved = (others_garment - own).abs().mean().item()
print(f"another garment: accuracy {kept:.2f}, the right score moves by {moved:.1f} nats")
assert kept > 0.97

# %% [markdown]
# The network answers by the squares: exchange the garments, and its answers stay. Its scores do move a little. Now six
# explanations, two of which have never seen the network: the edges of the picture (Sobel), and noise. The mark is the share
# of the absolute map that lies in the ten squares.

# %%
sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], device=device)


def edges(images):
    across_and_down = torch.stack([sobel, sobel.T])[:, None]
    return F.conv2d(images, across_and_down, padding=1).norm(dim=1, keepdim=True)


# %%
slope = gradient(reader, dx, dy)[1]
others = data.as_float(decoyed.train_x[:50]).to(device)
generator = torch.Generator().manual_seed(seed)
maps = {
    "expected gradients": explain.expected_gradients(
        reader, dx, dy, others, samples=100
    ).values,
    "IG from black": explain.integrated_gradients(reader, dx, dy).values,
    "gradient × image": slope * dx,
    "gradient": slope,
    "edges (Sobel)": edges(dx),
    "noise": torch.randn(dx.shape, generator=generator).to(device),
}
marks = {name: explain.share_inside(values, mask).cpu() for name, values in maps.items()}

# %% [markdown]
# First look, and make your own ranking: which map would you show to a colleague? Each has its own scale here.

# %% tags=["hide-input"]
figure, axes = plt.subplots(3, 7, figsize=(7.6, 3.5))
for row, i in zip(axes, range(3)):
    row[0].imshow(dx[i, 0].cpu(), vmin=0, vmax=1)
    for axis, values in zip(row[1:], maps.values()):
        limit = values[i].abs().quantile(0.99).item()
        axis.imshow(values[i, 0].cpu(), cmap="RdBu_r", vmin=-limit, vmax=limit)
for axis, title in zip(axes[0], ["image", *maps]):
    axis.set_title(title.replace(" ", "\n", 1), fontsize=7.5, loc="center")
for axis in axes.flat:
    axis.axis("off")

# %% tags=["hide-input"]
intervals = {name: bootstrap_interval(values) for name, values in marks.items()}
figure, axis = plt.subplots(figsize=(6, 2.3))
for k, (name, (low, high)) in enumerate(intervals.items()):
    mean = marks[name].mean().item()
    axis.barh(k, mean, color="C0" if k < 4 else "#999999")
    axis.plot([low, high], [k, k], color="black", lw=1.5)
axis.axvline(mask.float().mean().item(), color="black", lw=1, ls=":")
axis.set(yticks=range(6), xlim=(0, 1), xlabel="share of the map in the squares, 100 images")
axis.set_yticklabels(list(marks), fontsize=8)
axis.invert_yaxis()

# %%
mean = {name: values.mean().item() for name, values in marks.items()}
assert min(mean["expected gradients"], mean["IG from black"]) > mean["noise"] + 0.1
assert mean["expected gradients"] > mean["edges (Sobel)"]
assert intervals["expected gradients"][0] > intervals["IG from black"][1]
assert abs(mean["noise"] - mask.float().mean().item()) < 0.01

# %% [markdown]
# The edges give the clearest picture of all, sharp and meaningful, and they know nothing of the network. Of the real
# methods, expected gradients do best. Integrated gradients from black cannot see nine of the ten squares: those are black,
# and it is their *being* black that rules out nine classes. And no method gets full marks, on the simplest truth one could
# think of: part of every map lies on a garment that has nothing to do with the label. (Some of that may be just, as the
# garment moves the scores a little. The mark asks about the label.) Looking better is not being better.
# On real pictures there is no mask, and so no such mark.

# %% [markdown]
# ## A test that needs no truth
#
# One thing can be asked of any picture: does the map change when the network forgets? Put random weights in the place of
# the learned ones, in the last layer or in all of them, and explain the same class again {cite}`adebayo2018sanity`. Old
# and new map are compared twice: by the rank correlation of their sizes, which is about *where* the eye sees something,
# and by their cosine, which hears signs. Before you look: what should happen to a map that is about the network?


# %%
def forgetful(model, layers):
    """A copy whose last so many layers have random weights."""
    twin = copy.deepcopy(model)
    parts = [part for part in twin.modules() if hasattr(part, "reset_parameters")]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in parts[-layers:]:
            part.reset_parameters()
    return twin


def same_places(a, b):
    ranks = [m.sum(1).abs().flatten(1).argsort(1).argsort(1).double() for m in (a, b)]
    return F.cosine_similarity(*(r - r.mean(1, keepdim=True) for r in ranks)).mean().item()


# %%
some, says = x[:50], probabilities(plain, x[:50]).argmax(1)
about = data.as_float(fashion.train_x[:50]).to(device)
ig = partial(explain.integrated_gradients, output="score")
eg = partial(explain.expected_gradients, samples=50, output="score")
makers = {
    "IG from black": lambda m: ig(m, some, says).values,
    "expected gradients": lambda m: eg(m, some, says, about).values,
    "gradient": lambda m: gradient(m, some, says)[1],
    "edges (Sobel)": lambda m: edges(some),
}

# %%
rows = {}
for name, make in makers.items():
    before = make(plain)
    for layers, title in ((1, "last layer random"), (5, "all random")):
        after = make(forgetful(plain, layers))
        signs = F.cosine_similarity(before.flatten(1), after.flatten(1)).mean().item()
        rows[name, title] = {"places": same_places(before, after), "signs": signs}
rows = pd.DataFrame(rows).T
rows.unstack().round(2)

# %%
assert rows.places["edges (Sobel)"].min() > 0.999
assert rows.places["IG from black"].min() > 0.8
assert rows.signs.drop("edges (Sobel)", level=0).abs().max() < 0.35
assert rows.places["gradient"].max() < 0.5

# %% [markdown]
# The edges cannot change; they never saw the network. The gradient forgets, as it should. Now integrated gradients: with
# *all* weights random the sizes are still ranked nearly as before. A black pixel equals the baseline and is given nothing
# by any network, and half of the pixels are black. So where such a map is large is told mostly by the picture. Expected
# gradients lie between: about half of the agreement in places stays. What the network has to say is in the signs, and of
# those hardly anything is left, in any of the three. "The map shows the object" is then no evidence of anything: the map
# of an untrained network shows it, too.

# %% [markdown]
# ## At full scale
#
# Full Fashion-MNIST in place of CIFAR-10, 500 test images, the class that the network gives them. *As published* the
# probability is explained, and *adaptive*, by our correction, the score, which does not saturate. First the smoothness of
# both networks' maps, with 95 % intervals over images, in hundredths.

# %% tags=["recorded"]
recorded = results.load(document="interpretable").query("chapter == '11'")
best = next((p for p in ("paper", "cpu") if p in set(recorded.profile)), "")  # the larger
recorded = recorded[recorded.profile == best]
smoothnesses = recorded[recorded.metric.isin(["ig_smoothness", "shap_smoothness"])]
report.rates(smoothnesses, ["metric", "protocol"])

# %% [markdown]
# The first six test images, explained as published: the document's Figures 10 and 13 on clothes. Each column has a scale of
# its own here, so compare shapes and not strengths.

# %% tags=["recorded"]
recorded_maps, methods = {}, {"integrated-gradients": "IG", "expected-gradients": "SHAP"}
for _, row in smoothnesses.query("protocol == 'as_published' and seed == 0").iterrows():
    if sheet := results.picture_of(row):
        pictured, drawn_map = sheet.images[:6].unbind(1)
        recorded_maps[f"{row.model}\n{methods[row.attack]}"] = 2 * drawn_map - 1
if recorded_maps:
    label = "share of the column's 99th percentile"
    _ = figures.saliency_grid(pictured, dict(sorted(recorded_maps.items())), label=label)
else:
    print(results.NOT_RUN)

# %% [markdown]
# By rule, the claim *stands* if the paired difference, robust less plain, is above zero at 95 %. On Small ImageNet we have
# no data; chapter 09 has the commands for a folder of such images.


# %% tags=["recorded"]
def in_words(claim):
    data_set = {"cifar10": "CIFAR-10", "small-imagenet": "Small ImageNet"}[claim.data]
    way = {"ig_smoothness": "integrated gradients", "shap_smoothness": "SHAP values"}
    return f"{data_set}: the robust network's {way[claim.metric]} are smoother"


board = results.scoreboard(document="interpretable", chapter="11")
with pd.option_context("display.max_colwidth", None, "display.max_rows", None):
    display(report.verdicts(board, in_words))

# %% tags=["recorded"]
level = smoothnesses.groupby(["metric", "model", "protocol"])["value"].mean()
if best == "cpu":  # what the next sentences say
    ig, by_eg = level["ig_smoothness"], level["shap_smoothness"]
    assert (ig["cnn-at-l2"] - ig["cnn"]).between(0.1, 0.17).all()
    assert (by_eg["cnn-at-l2"] - by_eg["cnn"]).between(0.18, 0.23).all()
    assert by_eg["cnn", "as_published"] < ig["cnn", "as_published"]
    assert by_eg["cnn-at-l2", "as_published"] > ig["cnn-at-l2", "as_published"]

# %% [markdown]
# On full Fashion-MNIST the claim stands, by both methods and for both outputs: the robust network's maps are smoother, and
# by more than at the quick profile. That SHAP is smoother than integrated gradients holds for the robust network alone,
# here as well (for the probability; for the score the plain network's two maps are even).
#
# Three reservations. The measure is ours. It hears what a map looks like, and a blur can fool it. And "focuses on specific
# parts of the object" cannot be checked here at all: that would take masks of the parts.

# %% [markdown]
# ## Exercises
#
# Spot the bug: each of these was made by people who knew what they were doing. A check stands under each stub. The
# solutions are hidden; open them when you are done.
#
# **1. A test that catches them all.** (medium, 20 minutes) Five programs for integrated gradients. The first is right. The
# others have real bugs: weights that do not add up to 1; the difference forgotten; multiplied by $x$ where $x - x'$ is
# meant; and a gradient of `scores[:, labels]`, which mixes the labels of the whole batch. Write one test that only the
# first one passes. You do not need a network.


# %%
def program(weights="right", factor="difference", pick="own"):
    def explain_it(model, x, y, start, steps=10):
        alpha = torch.linspace(0, 1, steps + 1).tolist()
        w = [1 / steps] * (steps + 1)
        w[0] = w[-1] = 0.5 / steps
        if weights == "wrong":  # halved ends, and divided by the number of points
            w = [v * steps / (steps + 1) for v in w]
        total = torch.zeros_like(x)
        for a, v in zip(alpha, w):
            at = (start + a * (x - start)).requires_grad_()
            scores = model(at)
            asked = scores.gather(1, y[:, None]) if pick == "own" else scores[:, y]
            total += v * torch.autograd.grad(asked.sum(), at)[0]
        return total * {"difference": x - start, "image": x, "none": 1.0}[factor]

    return explain_it


bugs = [{"weights": "wrong"}, {"factor": "none"}, {"factor": "image"}, {"pick": "mixed"}]


# %%
def passes(explain_it):
    return None  # your code here: True or False


def check_passes(answer):
    assert answer(program())
    caught = [not answer(program(**bug)) for bug in bugs]
    print("caught:", dict(zip(map(str, bugs), caught)))
    assert all(caught)


if passes(program()) is not None:
    check_passes(passes)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution: a straight line, two images of two classes, and a baseline that is not black
def passes_solution(explain_it):
    start = torch.full_like(few[:2], 0.3)
    values = explain_it(straight, few[:2], their[:2], start)
    truth = (few[:2] - start) * straight.weights[their[:2]].view(2, 1, 28, 28)
    return torch.allclose(values, truth, rtol=1e-3, atol=1e-4)


check_passes(passes_solution)

# %% [markdown]
# **2. Zero is not black.** (easy, 10 minutes) Many networks want images normalised first, $(x - m) / s$, and their users
# explain the network behind that. captum's tutorials leave the baseline at zero there and call it black. What grey is
# zero? And what baseline is black? (In this book normalisation is inside the model, so the question does not arise.)

# %%
m, s = 0.29, 0.35


def behind(normalised):
    """The plain network for somebody who normalises outside."""
    return plain(normalised * s + m)


# %%
def grey_of_zero():
    return None  # your code here: a number in [0, 1]


def black_behind(normalised):
    return None  # your code here: a baseline of the shape of normalised


def check_black(grey, baseline):
    normalised = (few - m) / s
    zero = program()(behind, normalised, their, torch.zeros_like(normalised))
    torch.testing.assert_close(torch.tensor(grey()), torch.tensor(m))
    values = program()(behind, normalised, their, baseline(normalised))
    options = {"steps": 10, "output": "score"}
    truth = explain.integrated_gradients(plain, few, their, **options).values
    torch.testing.assert_close(values, truth, rtol=1e-3, atol=1e-4)
    off = (zero - truth).norm() / truth.norm()
    print(f"with zero for a baseline the map is off by {off:.0%} of its length")
    assert off > 0.2


if grey_of_zero() is not None:
    check_black(grey_of_zero, black_behind)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution
def grey_of_zero_solution():
    return m  # zero is the mean grey


def black_behind_solution(normalised):
    return torch.full_like(normalised, -m / s)


check_black(grey_of_zero_solution, black_behind_solution)

# %% [markdown]
# **3. Who is in the batch?** (easy, 10 minutes) A network with batch normalisation, forgotten in training mode: it
# normalises each image by the images it shares a pass with, and on a path those are the image's own faded copies. Write
# the completeness gap of each image, all points of an image in one pass, and let `mode` decide. By how much does it grow?

# %%
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 16, 5, 2, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()]
    normed = nn.Sequential(*layers, nn.Linear(16 * 196, 10))
schedule |= {"learning_rate": 1e-3}
_ = training.fit(
    normed,
    training.cross_entropy,
    fashion.train_x[:2000],
    fashion.train_y[:2000],
    device=device,
    **schedule,
)


# %%
def gap_in(mode, model, x, y, steps=100):
    return None  # your code here: |gap| (B,), with model.train(mode)


def check_gap_in(answer):
    trained, evaluated = (
        answer(mode, normed, few, their).mean().item() for mode in (True, False)
    )
    library = explain.integrated_gradients(normed.train(), few, their, steps=100)
    print(f"mean |gap|: training mode {trained:.3f}, evaluation mode {evaluated:.4f}")
    torch.testing.assert_close(
        library.gap.abs().mean().item(), evaluated, rtol=0.05, atol=1e-4
    )
    assert (
        normed.training
    )  # the library explains in evaluation mode, and puts the mode back
    assert trained > 5 * evaluated


if gap_in(False, normed, few, their) is not None:
    check_gap_in(gap_in)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution
def gap_in_solution(mode, model, x, y, steps=100):
    before, gaps = model.training, []
    alpha = torch.linspace(0, 1, steps + 1, device=x.device).view(-1, 1, 1, 1)
    for image, label in zip(x, y):
        _, slope = gradient(model.train(mode), alpha * image, label.expand(steps + 1))
        weights = torch.full_like(alpha, 1 / steps)
        weights[0] = weights[-1] = 0.5 / steps
        given = ((weights * slope).sum(0) * image).sum()
        ends = gradient(model, torch.stack([0 * image, image]), label.expand(2))[0]
        gaps.append((given - (ends[1] - ends[0])).abs())
    model.train(before)
    return torch.stack(gaps)


check_gap_in(gap_in_solution)

# %% [markdown]
# **4. No pixel left out.** (medium, 15 minutes) Average integrated gradients from black and from white, so that every
# pixel differs from at least one baseline. What do the values add up to now?


# %%
def from_both(model, x, y):
    return None  # your code here: values (B, 1, 28, 28)


def sum_of_both(model, x, y):
    return None  # your code here: what the sums (B,) should be


def check_both(values_of, sum_of):
    values = values_of(plain, few, their)
    truth = sum_of(plain, few, their).detach()
    torch.testing.assert_close(values.sum((1, 2, 3)), truth, rtol=0, atol=0.15)
    ends = [torch.full_like(few, level) for level in (0.0, 1.0)]
    ours = [
        explain.integrated_gradients(plain, few, their, baseline=end, steps=200).values
        for end in ends
    ]
    mean = (ours[0] + ours[1]) / 2
    assert (values - mean).norm() < 0.1 * mean.norm()
    on_dark = (values.abs() * dark).sum() / values.abs().sum()
    print(f"{on_dark:.0%} of the map lies on black pixels")


if from_both(plain, few, their) is not None:
    check_both(from_both, sum_of_both)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution
def from_both_solution(model, x, y):
    ends = [torch.full((1, 1, 1, 1), level, device=x.device) for level in (0.0, 1.0)]
    maps = [
        explain.integrated_gradients(model, x, y, baseline=end, steps=200).values
        for end in ends
    ]
    return (maps[0] + maps[1]) / 2


def sum_of_both_solution(model, x, y):
    ends = [output(model, torch.full_like(x, level), y) for level in (0.0, 1.0)]
    return output(model, x, y) - (ends[0] + ends[1]) / 2


check_both(from_both_solution, sum_of_both_solution)

# %% [markdown]
# **5. Full marks.** (medium, 10 minutes) For the decoy pictures, find a baseline from which integrated gradients get a
# mark above 0.99. Then ask yourself what your map has shown that you had not put in.


# %%
def my_baseline(dx):
    return None  # your code here: images of the shape of dx


def check_full_marks(answer):
    found = explain.integrated_gradients(reader, dx, dy, baseline=answer(dx))
    mark = explain.share_inside(found.values, mask).mean().item()
    p = output(reader, answer(dx), dy).mean().item()
    print(
        f"mark {mark:.3f}, p at the baseline {p:.2f}, mean gap {found.gap.abs().mean():.3f}"
    )
    assert mark > 0.99


if my_baseline(dx) is not None:
    check_full_marks(my_baseline)


# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution: the same picture with its squares blanked. All pixels outside equal the baseline, and
# are given nothing by construction: the choice of the baseline was the explanation.
def my_baseline_solution(dx):
    return dx * ~mask


check_full_marks(my_baseline_solution)

# %% [markdown]
# ## Summary
#
# Integrated gradients add up the slopes on the road from a baseline to the image, so that what the pixels are given adds
# up to the whole change; a gap says how far off the sum is, and finds most bugs. The baseline is half of the question:
# pixels equal to it are given nothing, and many baselines, as in expected gradients and SHAP, ask another question than
# black does. The robust network's maps are smoother, by a measure that a blur can fool; where the truth is known, edges
# that never saw the network look best, and no method gets full marks.
#
# **Sources.** Integrated gradients and their axioms: {cite}`sundararajan2017axiomatic`. Expected gradients:
# {cite}`erion2021improving`. SHAP: {cite}`lundberg2017unified`. Baselines, and data with a known answer:
# {cite}`sturmfels2020visualizing`. Random weights as a test: {cite}`adebayo2018sanity`. The document:
# {cite}`interpretable`.
#
# **Where next.** Chapter 12 turns the question round: instead of asking which pixels a feature comes from, it asks which
# image a feature wants.
