"""A bundle as one signed file, and its installation on a box. See docs/deploy.md."""
