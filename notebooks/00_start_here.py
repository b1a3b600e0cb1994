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
# The chapters rebuild what five documents say about that, on real images. Each claim is measured twice: as it was
# published, and by an evaluation made to break it.
#
# **You will** check your installation, look at the data that comes with the book, and see how little an image must
# change before you notice. **You need** some Python. **It takes** five minutes; the cells run in seconds.

# %% [markdown]
# ## How a chapter works
#
# The next cell holds the chapter's parameters. Every chapter has one such cell, and every other setting follows from
# it.
#
# - `profile` is the scale. At `quick`, small models learn for seconds from a sample. At `cpu`, they learn from a full data
#   set. At `paper`, everything has the size that the documents gave it.
# - `seed` is the number that random draws start from.
# - `data_root` is a folder with full data sets. The `quick` profile needs none.
# - `device` is where tensors live. With `auto`, that is a GPU if there is one.

# %% tags=["parameters"]
profile = "quick"
seed = 0
data_root = ""
device = "auto"

# %% [markdown]
# If the next cell cannot find `hybridgen_lib`, you are on a machine that does not have it yet, such as Colab. Put
# `%pip install git+https://github.com/hybridgen/hybridgen` in a cell above it, and run that once.

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
# older.

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
# The book stores an image as numbers between 0 (black) and 1 (white). How far are two images apart? One answer is the
# largest change of any pixel, called the $\ell_\infty$ distance:
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
# At $\epsilon = 0.1$ the noise is visible and does no harm. At 0.5 the image is still there. The same distance, spent
# with care instead of at random, fools an ordinary network almost every time. That is the subject of the chapter on
# gradient attacks.

# %% [markdown]
# ## Exercises
#
# **1. How large is the ball?** (easy, 5 minutes) Two images of different classes also have a distance. Find the smallest
# $\ell_\infty$ distance between a test image of class 0 and one of class 1. Is it larger than 0.2, the diameter of the
# ball of $\epsilon = 0.1$?

# %%
smallest = None  # replace this line

# %% tags=["hide-cell"]
# Solution
first, second = (
    data.as_float(fashion.test_x[fashion.test_y == c]).flatten(1) for c in (0, 1)
)
smallest = torch.cdist(first, second, p=float("inf")).min().item()
print(f"smallest distance {smallest:.2f}")

# %%
if smallest is not None:
    assert smallest > 0.2

# %% [markdown]
# ## Summary
#
# The environment works, and ten classes of real images are at hand. Images are numbers between 0 and 1, and an attack
# may move them inside a ball of radius $\epsilon$. Random moves of that size do little harm.
