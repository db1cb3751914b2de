"""The integer network, executed from the deploy pair alone: NumPy only, no torch (spec 10, 11.3, 11.4).

It is the oracle for ``real_quant``: written from the specification, it reads ``<prefix>_deploy_model.onnx`` and
``<prefix>_quant_param_record.txt`` and shares no arithmetic with the torch side.

    deploy_pair   the two files as frozen values: nodes, constants, grids
    values        the value on an edge, and how it is put on a grid
    cube          convolutions, products and poolings of integers
    ops           kernels of the ONNX operators
    interpreter   walks the graph
    golden_tensor one tensor of a golden file, and the first difference from it
    digest        golden files: the proof that travels with an export
"""
