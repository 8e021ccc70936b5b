"""An opened model as plain tensors. Importing the package itself does not import torch."""
