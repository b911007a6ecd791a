"""What a model is judged by, beside VTAB's three groups of tasks; prepare writes it and evaluate reads it."""

TRANSFERRED = "transferred"  # benchmarks with images to train on
DOWNSTREAM = "downstream"  # the images that the model is fine-tuned on, if they are no corpus
AS_IS = "as_is"  # test sets of ImageNet's classes, which the model answers without a training
