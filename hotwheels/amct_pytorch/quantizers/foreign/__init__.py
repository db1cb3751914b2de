"""Quantizer classes of users and of torch, named by a dotted path."""
