"""segstudy: which loss, context module, encoder or upsampling really helps, on your images, and how surely."""

__version__ = "0.1.0"
