"""The integer network, executed from the deploy pair alone: NumPy only, no torch (spec 10, 11.3, 11.4).

This is the oracle for ``real_quant``: it was written from the specification, reads ``<prefix>_deploy_model.onnx`` and
``<prefix>_quant_param_record.txt`` and shares no arithmetic with the torch code.

    deploy_pair   the two files as frozen values: nodes, constants, grids
    values        the value on an edge, and its quantization to a grid
    cube          convolutions, products and poolings of integers
    ops           kernels of the ONNX operators
    interpreter   walks the graph
    golden_tensor one tensor of a golden file, and the first difference from it
    digest        golden files: inputs and expected results, saved with an export
"""
