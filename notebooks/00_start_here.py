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
# # Start here
#
# This book asks one question. A classifier can learn *which class* an image has, or *what each class looks like*. Is
# the second kind harder to fool?
#
# The chapters rebuild what five documents say about that, and about methods that they compare it with, on real images.
# Each claim is measured twice: as it was published, and by an evaluation made to break it.
#
# **You will** check your installation, look at the data that comes with the book, and see how much noise an image
# takes before you lose it. **You need** some Python. **It takes** ten minutes; the cells run in seconds.

# %% [markdown]
# ## How a chapter works
#
# Read from top to bottom. A chapter builds each thing by hand, in a few lines, then takes the library's version and
# asserts that both agree. An `assert` under a text is part of the text: if it did not hold, the chapter would stop there.
# Exercises have a stub, a check, and a solution that is hidden until you open it. To run a chapter yourself, type
# `make lab` and press Shift+Enter from cell to cell.
#
# The next cell holds the chapter's parameters. Every chapter has the same four.
#
# - `profile` is the scale. At `quick`, small models learn for seconds from a sample. At `cpu`, they learn from a full data
#   set, or from most of one. At `paper`, everything has the size that the documents state, or else that of the paper behind
#   them.
# - `seed` is the number that random draws start from.
# - `data_root` is a folder with full data sets. The `quick` profile needs none.
# - `device` is where tensors live. With `auto`, that is a GPU if there is one.
#
# This chapter trains nothing, so `profile` and `data_root` change nothing here. Where a later chapter compares itself with
# a document, it shows numbers recorded at `cpu` or `paper`, never those of a quick run.

# %% tags=["parameters"]
profile = "quick"
seed = 0
data_root = ""
device = "auto"

# %% [markdown]
# If the next cell cannot find `hybridgen_lib`, you are on a machine that does not have it yet, such as Colab. Put two lines in
# a cell above it, `!git clone --depth 1 https://github.com/hybridgen/hybridgen` and `%pip install -e hybridgen`, and run that
# once. The recorded results come with the clone.

# %%
import torch

from hybridgen_lib import data, figures

figures.use_style()
generator = torch.Generator().manual_seed(seed)
if device == "auto":
    device = "cuda" if torch.cuda.is_available() else "cpu"

# %% [markdown]
# ## Is everything there?
#
# The book runs with Python 3.11 to 3.13 and PyTorch 2.11 or newer. The next cell stops with an error if yours are
# others.

# %%
import sys

assert (3, 11) <= sys.version_info[:2] <= (3, 13), "use Python 3.11, 3.12 or 3.13"
assert tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 11), (
    "use PyTorch 2.11 or newer"
)
print("environment: as it should be")

# %% [markdown]
# A quick test that gradients work, since the whole book lives on them. The derivative of $x^2$ at 3 is 6.

# %%
x = torch.tensor(3.0, device=device, requires_grad=True)
(x**2).backward()
assert x.grad == 6

# %% [markdown]
# ## The images
#
# Fashion-MNIST {cite}`xiao2017fashion` has ten kinds of clothing, drawn in 28 by 28 grey pixels. A sample of it is
# part of the book: 6,000 images to learn from, 1,000 to test with. Each class has the same share in both.

# %%
fashion = data.load("fashion-mini")
print("training images", tuple(fashion.train_x.shape), fashion.train_x.dtype)
print("test images    ", tuple(fashion.test_x.shape), fashion.test_x.dtype)
assert fashion.train_y.bincount().tolist() == [600] * 10

# %% [markdown]
# One row a class, eight images each.

# %%
examples = torch.cat([fashion.train_x[fashion.train_y == c][:8] for c in range(10)])
_ = figures.image_grid(examples, columns=8, row_titles=fashion.classes)

# %% [markdown]
# Some classes are easy to tell apart: trousers are not boots. Some are not: pullover, coat and shirt share most of
# their pixels. A model that draws each class will find the same.

# %% [markdown]
# ## Small changes
#
# Files hold whole numbers from 0 to 255. `data.as_float` divides them by 255, and from there on a pixel is a number
# between 0 (black) and 1 (white). How far are two images apart? One answer is the largest change of any pixel, called
# the $\ell_\infty$ distance:
#
# $$\lVert x' - x \rVert_\infty = \max_i |x'_i - x_i| .$$
#
# All images within distance $\epsilon$ of $x$ form a *ball*. The simplest way to move inside it is to add to each
# pixel a number drawn evenly between $-\epsilon$ and $\epsilon$.

# %%
image = data.as_float(fashion.test_x[:1])
noise = 2 * torch.rand(image.shape, generator=generator) - 1


def add_noise(x, epsilon):
    return (x + epsilon * noise).clamp(0, 1)


assert (add_noise(image, 0.1) - image).abs().max() <= 0.1 + 1e-6

# %% [markdown]
# Move the slider. Up to which $\epsilon$ would you still know what it is?

# %% tags=["slider"]
epsilons = [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]
frames = [add_noise(image, epsilon)[0] for epsilon in epsilons]
figures.slider_figure(
    frames,
    epsilons,
    "noise up to ε",
    alt="A test image under uniform noise of growing strength",
)

# %% [markdown]
# At $\epsilon = 0.1$ the noise is visible and the garment is plain; at 0.5 you can still guess it. Chosen with care instead
# of at random, a change of 0.1 fools an ordinary network most of the time. That is the subject of chapter 05.
#
# The library knows this ball, too. Its `Linf(0.1)` draws noise inside, and brings back what lies outside.

# %%
from hybridgen_lib.attacks import Linf

ball = Linf(0.1)
assert ball.norm(ball.random(image, generator)).item() <= 0.1
torch.testing.assert_close(ball.project(0.3 * noise), (0.3 * noise).clamp(-0.1, 0.1))

# %% [markdown]
# ## Exercises
#
# A check stands under each stub. The solutions are hidden; open them when you are done.
#
# **1. How far apart are two classes?** (easy, 5 minutes) Two images of different classes have a distance, too. Find the
# smallest $\ell_\infty$ distance between a test image of class 0 (T-shirt/top) and one of class 1 (Trouser). If it is
# larger than 0.2, no image lies within 0.1 of both.

# %%
shirts, trousers = (data.as_float(fashion.test_x[fashion.test_y == c]) for c in (0, 1))
smallest = None  # replace this line


def check_smallest(answer):
    assert abs(answer - 0.647) < 0.005  # far above 0.2


if smallest is not None:
    check_smallest(smallest)

# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution
distances = torch.cdist(shirts.flatten(1), trousers.flatten(1), p=float("inf"))
print(f"smallest distance {distances.min():.2f}")
check_smallest(distances.min().item())

# %% [markdown]
# **2. The other distance.** (easy, 5 minutes) The $\ell_2$ norm of a change is the root of the sum of its squares. How long
# is, on average, the noise of the slider at $\epsilon = 0.1$, before clipping? A number drawn evenly from $[-\epsilon,
# \epsilon]$ has the mean square $\epsilon^2/3$, and there are 784 pixels.

# %%
length = None  # replace this line by a formula


def check_length(answer):
    measured = (0.1 * noise).norm().item()
    assert abs(answer - measured) < 0.1


if length is not None:
    check_length(length)

# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution
length_solution = (784 * 0.1**2 / 3) ** 0.5
print(f"length {length_solution:.2f}")
check_length(length_solution)

# %% [markdown]
# **3. Which class is brightest?** (easy, 5 minutes) A classifier that looked at brightness alone would be fooled by a lamp.
# Still, how much does brightness tell? Compute the mean brightness of each class over the training images.

# %%
brightness = None  # replace this line by a tensor of ten numbers in [0, 1]


def check_brightness(answer):
    assert answer.shape == (10,)
    overall = data.as_float(fashion.train_x).mean().item()
    assert abs(answer.mean().item() - overall) < 1e-3  # the classes have equal shares
    assert fashion.classes[answer.argmin()] == "Sandal"


if brightness is not None:
    check_brightness(brightness)

# %% jupyter={"source_hidden": true} tags=["hide-cell"]
# Solution
pixels = data.as_float(fashion.train_x).flatten(1).mean(1)
means = torch.stack([pixels[fashion.train_y == c].mean() for c in range(10)])
print(
    {
        name: round(value, 2)
        for name, value in zip(fashion.classes, means.tolist(), strict=True)
    }
)
check_brightness(means)

# %% [markdown]
# ## Summary
#
# The environment works, and ten classes of real images are at hand. Images are numbers between 0 and 1, and an attack
# may move them inside a ball of radius $\epsilon$. A random move of up to 0.1 leaves a
# garment plain to the eye.
#
# **Sources.** The images: {cite}`xiao2017fashion`.
#
# **Where next.** Chapter 01 has the two ways to classify. Part I goes on to models that draw, and part II, from chapter
# 05, attacks them.
