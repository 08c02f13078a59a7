"""Runs a bundle on the box: retrieval-augmented answers with checked citations, fully local."""
