"""What a KV policy costs a model in quality: measured layer by layer, kept as a profile, shown as a dial."""
