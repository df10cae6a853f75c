"""A decoder-only GPT in Flax Linen, used functionally: plain nested dicts of arrays in and out."""
