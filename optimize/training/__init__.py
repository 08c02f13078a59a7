"""The completion-only trainer: samples to token ids, ids to packs, packs to an adapter."""
