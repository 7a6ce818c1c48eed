//! Layers with PyTorch's defaults of initialisation.
