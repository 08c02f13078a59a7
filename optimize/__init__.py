"""Builds bundles on the workstation: fetch, export, quantize, prove, pack."""
