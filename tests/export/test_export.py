"""The folder: what is in it, that it is whole or not there, and that what it claims holds."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from epanns.complexity.macs import profile
from epanns.data.batches.dataset import PackDataset
from epanns.errors import CheckpointError, ConfigError, OutputError, PackError
from epanns.evaluation.metrics import evaluate
from epanns.evaluation.predict import predict
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.export import export
from epanns.export.export import Int8, export_network
from epanns.export.int8_clips import compare, comparison
from epanns.export.network import OPSET, named_inputs, to_onnx
from epanns.export.runtime import OnnxTagger, outputs_of
from epanns.labels import LabelSet
from epanns.models.zoo import ZOO, build_model
from epanns.pruning.calibration_clips import split_rows
from tests.export.conftest import small_network
from tests.families import noise, randomised


@pytest.fixture
def report(folder):
    return json.loads((folder / "export.json").read_text())


def test_the_folder_holds_both_files_and_what_they_need(folder, report, model):
    files = {path.name for path in folder.iterdir()}
    assert files == {"model.onnx", "model.int8.onnx", "front_end.json", "labels.csv", "export.json"}
    assert LabelSet.from_csv(folder / "labels.csv") == model.labels
    for name, file in report["files"].items():
        assert file["bytes"] == (folder / name).stat().st_size
        told = {entry.key: entry.value for entry in onnx.load(folder / name).metadata_props}
        assert json.loads(told["labels"]) == list(model.labels.names)
        assert json.loads(told["front_end"]) == json.loads((folder / "front_end.json").read_text())
        assert (told["sample_rate"], told["model"]) == ("8000", "small")
        timed = file["latency_ms"]
        assert set(timed) == {"1 s", "10 s"}
        assert 0 < timed["1 s"]["min"] <= timed["1 s"]["median"]


def test_torch_and_onnx_runtime_agree_on_clips_of_any_length_and_number(folder, report, model):
    assert report["parity"]["largest_difference"]["clipwise_output"] < 1e-5
    exported = OnnxTagger(model, folder / "model.onnx")
    for clips, samples in ((1, 2_560), (5, 7_919), (2, 100)):
        waveform = 0.1 * torch.randn(clips, samples)
        expected, found = model(waveform), exported(waveform)
        for name in report["outputs"]:
            np.testing.assert_allclose(found[name].numpy(), expected[name].detach().numpy(), atol=1e-5)


def test_an_exported_network_is_evaluated_as_any_other(folder, model, tiny_packs):
    dataset, protocol = PackDataset([tiny_packs["test"]]), EvaluationProtocol(0.4, 0.2)
    theirs, ours = (
        predict(network, dataset, protocol) for network in (model, OnnxTagger(model, folder / "model.onnx"))
    )
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    assert ours.clip_ids == theirs.clip_ids


def test_batch_norms_are_folded_and_the_first_is_a_factor_and_an_offset(folder, report, model):
    nodes = [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]
    assert nodes[:3] == ["Mul", "Add", "Conv"]
    assert "BatchNormalization" not in nodes
    assert report["n_params_folded"] == profile(model).n_params_folded


def test_int8_holds_no_float_matrix_and_little_more_than_a_byte_a_weight(folder, report):
    graph = onnx.load(folder / "model.int8.onnx").graph
    matrices = [held for held in graph.initializer if len(held.dims) > 1 and held.data_type == onnx.TensorProto.FLOAT]
    assert {held.name.rsplit(".", 1)[-1] for held in matrices} <= {"s", "scale", "shift"}
    assert all(np.prod(held.dims) <= max(held.dims) for held in matrices)
    assert "QuantizeLinear" in {node.op_type for node in graph.node}
    assert report["files"]["model.int8.onnx"]["bytes"] <= 1.15 * report["n_params_folded"] + 64 * 1024


def test_int8_is_compared_on_clips_that_did_not_calibrate(folder, report, model, tiny_packs):
    said = report["int8"]
    assert said["calibration"]["clips_used"] == 48
    assert said["evaluation"]["clips"] == 12
    assert (said["evaluation"]["held_out_of_calibration"], said["evaluation"]["of_calibration_pack"]) == (True, True)
    assert len(said["equalised_layers"]) == 4
    dataset = PackDataset([tiny_packs["train"]])
    calibrating, clips = split_rows(len(dataset), 200, held_out=True)
    assert len({*calibrating, *clips}) == 48 + 12
    pair = [OnnxTagger(model, folder / name) for name in ("model.onnx", "model.int8.onnx")]
    found = compare(*pair, dataset, clips).to_dict()
    assert found == {name: said["evaluation"][name] for name in found}
    assert said["calibration"]["logit_correlation"] > 0.99
    assert found["top1"] > 0.8
    assert abs(found["mAP"]["difference"]) < 0.05


def test_windows_are_scored_as_evaluate_scores_them(tmp_path, model, tiny_packs):
    """In Python, a network scored in windows gives the bytes and mAP of both files under its protocol."""
    calibration, evaluation = (PackDataset([tiny_packs[name]]) for name in ("train", "test"))
    protocol = EvaluationProtocol(0.4, 0.2)
    report = export_network(model, tmp_path / "out", int8=Int8(calibration, evaluation, protocol=protocol))
    said = report["int8"]
    assert said["protocol"] == protocol.describe()
    assert said["calibration"]["clips_used"] == len(calibration)
    assert (said["evaluation"]["held_out_of_calibration"], said["evaluation"]["of_calibration_pack"]) == (True, False)
    for name, file in (("float32", "model.onnx"), ("int8", "model.int8.onnx")):
        exported = OnnxTagger(model, tmp_path / "out" / file)
        scores = evaluate(predict(exported, evaluation, protocol), evaluation.labels, protocol, bootstrap=0)
        assert said["evaluation"]["mAP"][name] == pytest.approx(scores.mAP, abs=0.02 if name == "int8" else 1e-9)
        assert report["files"][file]["bytes"] == (tmp_path / "out" / file).stat().st_size


def test_a_pack_of_other_classes_calibrates_and_reports_agreement_without_map(tmp_path, tiny_packs):
    network, pack = small_network(), PackDataset([tiny_packs["train"]])
    assert network.labels.names != pack.labels.names
    found = export_network(network, tmp_path / "out", int8=Int8(pack))["int8"]["evaluation"]
    assert (found["mAP"], found["accuracy"]) == (None, None)
    assert found["top1"] > 0.8


@pytest.mark.parametrize(
    ("n_clips", "most", "held_out", "calibrating", "judging"),
    [
        (10, 200, True, [0, 1, 2, 3, 5, 6, 7, 8], [4, 9]),
        (10, 4, True, [0, 2, 5, 7], [4, 9]),
        (3, 200, False, [0, 1, 2], []),
    ],
)
def test_clips_that_calibrate_are_spread_over_the_pack(n_clips, most, held_out, calibrating, judging):
    assert split_rows(n_clips, most, held_out=held_out) == (calibrating, judging)


@pytest.mark.parametrize(("n_clips", "held_out"), [(4, True), (0, False)])
def test_too_few_clips_are_refused(n_clips, held_out):
    with pytest.raises(ConfigError, match=f"{n_clips} calibration clips: give at least (5, of which|one, some)"):
        split_rows(n_clips, 200, held_out=held_out)


def test_agreement_is_counted():
    truth = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], bool)
    ours = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.5, 0.4, 0.1]])
    theirs = ours.copy()
    theirs[3] = [0.3, 0.4, 0.3]
    found = comparison(ours, theirs, truth)
    assert (found.clips, found.top1, found.accuracy) == (4, 0.75, (0.75, 0.5))
    assert found.largest_difference == pytest.approx(0.2)
    assert found.mean_difference == pytest.approx(0.4 / 12)
    assert found.mAP == pytest.approx((13 / 18, 13 / 18))  # 5/6, 1 and 1/3, of which the moved clip changes none
    assert comparison(ours, theirs, None).to_dict()["mAP"] is None


def test_a_graph_that_is_not_the_network_is_not_written(tmp_path, folder, model, monkeypatch):
    monkeypatch.setattr(export, "to_onnx", lambda _: onnx.load(folder / "model.onnx"))
    model.fc_audioset.bias.data += 1
    with pytest.raises(CheckpointError, match=r"ONNX Runtime's scores differ from torch's by 0\.\d+, where 0.0001"):
        export_network(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("tensor", ["conv_block1.conv1.weight", "fc_audioset.bias"])
def test_damaged_weights_are_refused(tmp_path, model, tensor, value):
    model.get_parameter(tensor).data.view(-1)[0] = value
    with pytest.raises(CheckpointError, match=r"^small gives scores that are not finite: its weights are damaged"):
        export_network(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_whose_scores_are_not_finite_is_not_the_network(model):
    other = small_network(model.labels)
    other.fc_audioset.bias.data[0] = float("nan")
    with pytest.raises(CheckpointError, match="ONNX Runtime's scores differ from torch's by nan, where 0.0001"):
        export.parity_of(model, to_onnx(other))


def test_a_network_that_torch_cannot_export_is_refused_by_name(tmp_path, model, monkeypatch):
    def fails(*_, **__):
        raise torch.onnx.OnnxExporterError("no decomposition of aten.odd\nmuch more")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(ConfigError, match=r"^small cannot be exported by torch [\w.+]+: no decomposition of aten.odd$"):
        export_network(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_out_is_a_folder(tmp_path, model):
    with pytest.raises(
        ConfigError, match=r"lean.onnx: a folder is written, model.onnx and what it needs: name a folder"
    ):
        export_network(model, tmp_path / "lean.onnx")


def test_a_single_label_network_keeps_its_softmax(model):
    model.set_task("single-label")
    graph = to_onnx(model)
    assert export.parity_of(model, graph)["largest_difference"]["clipwise_output"] < 1e-5
    scores = OnnxTagger(model, graph)(torch.randn(3, 8_000))["clipwise_output"]
    np.testing.assert_allclose(scores.sum(dim=1), 1, rtol=1e-6)


def test_a_folder_that_exists_and_a_pack_of_another_rate_are_refused_before_the_work(tmp_path, tiny_packs, monkeypatch):
    monkeypatch.setattr(export, "to_onnx", lambda _: pytest.fail("exported first"))
    with pytest.raises(OutputError, match="exists already"):
        export_network(small_network(), tmp_path)
    loud = build_model(replace(small_network().spec, front_end=ZOO["Cnn14_16k"].front_end))
    with pytest.raises(ConfigError, match="8000 Hz, small reads 16000 Hz: pack the clips with --sample-rate 16000"):
        export_network(loud, tmp_path / "out", int8=Int8(PackDataset([tiny_packs["train"]])))


def test_calibration_clips_are_not_scored(tmp_path, model, tiny_packs, monkeypatch):
    """The tables of the packs decide it: nothing is exported before."""
    monkeypatch.setattr(export, "to_onnx", lambda _: pytest.fail("exported first"))
    train, both = PackDataset([tiny_packs["train"]]), PackDataset([tiny_packs["test"], tiny_packs["train"]])
    for evaluation, counts in ((train, "7 of 60"), (both, "7 of 80")):
        message = f"^{counts} evaluation clips of {evaluation.dataset_name} calibrate too, .*: int8 is compared on"
        with pytest.raises(PackError, match=message):
            export_network(model, tmp_path / "out", int8=Int8(train, evaluation, clips=7))


def test_json_is_what_the_folder_holds(said, report):
    assert json.loads(said[1]) == report


def noise_clips(network, count):
    return [named_inputs(network, noise(network, clips=1, seed=seed)) for seed in range(count)]


def logits_of(graph, clips):
    return np.concatenate([logits for (logits,) in outputs_of(graph, clips, ["clipwise_logits"])])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("Cnn14_DecisionLevelMax", "Cnn14_DecisionLevelAvg", "Cnn14_DecisionLevelAtt", "ResNet22", "MobileNetV1"),
        *("MobileNetV2", "Wavegram_Cnn14", "Wavegram_Logmel_Cnn14", "DaiNet19", "LeeNet11", "Res1dNet31"),
        *("YAMNet", "LEAN_concat", "LEAN_affinity", "LEAN", "mn01", "mn04"),
    ],
)
def test_every_family_is_exported_and_quantised(name):
    network = randomised(name)
    clips = noise_clips(network, 4)
    graph = to_onnx(network)
    assert max(export.parity_of(network, graph)["largest_difference"].values()) < 1e-4
    even = export.copy_of(graph)
    export.equalise(even, clips)
    logits, same = logits_of(graph, clips), logits_of(even, clips)
    np.testing.assert_allclose(same, logits, atol=1e-5 * max(1, np.abs(logits).max()))
    ranges = export.ranges_of(even, export.activations_of(even), clips)
    for made in (export.quantised(even, ranges), export.quantised(export.with_dynamic_lstms(even), ranges)):
        assert np.isfinite(logits_of(made, clips)).all()
        assert len(made.SerializeToString()) <= 1.15 * export.count_folded(graph) + 64 * 1024


@pytest.mark.slow
def test_lean_in_int8_has_its_published_size():
    lean = build_model("LEAN").eval()
    graph = to_onnx(lean)
    clips = noise_clips(lean, 1)
    export.equalise(graph, clips)
    ranges = export.ranges_of(graph, export.activations_of(graph), clips)
    for made in (export.quantised(graph, ranges), export.quantised(export.with_dynamic_lstms(graph), ranges)):
        export.describe_in(made, lean)
        assert 4.6e6 * 0.97 <= len(made.SerializeToString()) <= 4.6e6 * 1.03
        floats = [held for held in made.graph.initializer if held.data_type == onnx.TensorProto.FLOAT]
        assert max(np.prod(held.dims, dtype=int) for held in floats) <= 2 * 1024  # biases of the LSTMs; no matrix


def test_want_of_memory_in_onnx_runtime_is_a_memory_error():
    """It is no `RuntimeError` of theirs, and no traceback of a command."""
    node, shape = helper.make_node("Expand", ["x", "shape"], ["y"]), [onnx.TensorProto.INT64, [1]]
    values = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])]
    values += [helper.make_tensor_value_info("shape", *shape)]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    batches = [{"x": np.ones(1, np.float32), "shape": np.array([size], np.int64)} for size in (3, 1 << 52)]
    found = outputs_of(model, batches, ["y"])
    assert next(found)[0].tolist() == [1, 1, 1]
    with pytest.raises(MemoryError, match="ONNX Runtime: failed to allocate memory"):
        next(found)
