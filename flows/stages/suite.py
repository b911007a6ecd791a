"""Groups of what a model is judged by, beside VTAB's three; prepare writes them and evaluate reads them."""

TRANSFERRED = "transferred"  # benchmarks with images to train on
AS_IS = "as_is"  # test sets of ImageNet's classes, which the model answers without a training
