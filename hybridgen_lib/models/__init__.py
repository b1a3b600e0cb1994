"""The classifiers: formulas, the one latent-variable class they are given to, and the networks inside."""
