"""What a network can be asked."""

# Task -> how scores are made of logits: of each class by itself, or of one class out of all.
TASKS = {"multi-label": "sigmoid", "single-label": "softmax"}

# Task -> the score by which a network is chosen.
DECISIVE_SCORES = {"multi-label": "mAP", "single-label": "accuracy"}
