"""Transfer learning: starting weights, frozen stages, kept features, the linear head."""
