"""A model's network, its files, and what is made of them."""
