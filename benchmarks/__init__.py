"""What the library costs and what accuracy it keeps, beside a float run and beside onnxruntime; see docs/."""
