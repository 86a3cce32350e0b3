"""Configuration: typed settings, the loader, and the presets that ship."""
