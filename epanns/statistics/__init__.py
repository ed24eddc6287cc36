"""Statistics of scores, without torch: average precision, bootstrap, comparisons of networks."""
