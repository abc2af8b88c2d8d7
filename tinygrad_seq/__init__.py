"""tinygrad_seq: sequence models whose computational graph has time in it, differentiated and drawn unfolded."""

__version__ = "0.1.0"
