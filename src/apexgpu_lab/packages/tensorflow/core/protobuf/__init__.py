"""Part of the stand-in of TensorFlow."""
