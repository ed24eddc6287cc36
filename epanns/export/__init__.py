"""Networks as files for other runtimes: ONNX in float32 and int8, with proof of what they still compute.

`epanns.export.export.export_network` does what the command does, for a network and data sets at hand::

    asked = Int8(PackDataset([fold4]), PackDataset([fold5]), protocol=EvaluationProtocol(1.0, 0.5))
    report = export_network(model, folder, int8=asked)
    report["files"]["model.int8.onnx"]["bytes"], report["int8"]["evaluation"]["mAP"]["int8"]

`epanns.export.tagger.OnnxTagger(model, folder / "model.int8.onnx")` is a tagger again, for `predict` and `evaluate`.
"""
