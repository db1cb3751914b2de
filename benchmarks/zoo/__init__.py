"""Zoo conformance: the architectures of torchvision and timm, unmodified, through the whole SDK."""
