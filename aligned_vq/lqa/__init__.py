"""Adaptation to what a camera sees, without gradients (after LQA, arXiv 2602.07849): numpy only."""
