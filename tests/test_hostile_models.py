"""Model files that were made to hurt: none is loaded, whatever library reads it, and each ends as an error of a line."""

import json
import struct

import pytest
from onnx import TensorProto, helper

from mlloop.core import storage
from mlloop.core.errors import ModelError
from mlloop.models import candidates, onnx_export
from mlloop.release import releases


def onnx_model(node: str = "Identity", domain: str = "", outside: str = "") -> bytes:
    """A model of one node; `outside` names a file that shall hold its weights."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", outside), ("offset", "0"), ("length", "16")):
        weights.external_data.add(key=key, value=value)
    of_one = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1])
    inputs = ["a", "w"] if outside else ["a"]
    graph = helper.make_graph(
        [helper.make_node(node, inputs, ["y"], domain=domain)], "g", [of_one("a")], [of_one("y")], [weights] if outside else [],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("hostile", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04K\x01.",
        bytes(range(256)) * 16,
        onnx_model()[:40],
        onnx_model("Run", "hostile"),
        onnx_model("Add", outside="../../../../../../etc/passwd"),
        onnx_model("Add", outside="/etc/passwd"),
        onnx_model("Add", outside="weights.bin"),
    ],
    ids=["empty", "pickle", "noise", "cut", "unknown operation", "file above", "file anywhere", "file beside"],
)
def test_a_hostile_onnx_file_is_not_loaded_and_reads_no_other_file(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 16)
    with pytest.raises(ModelError, match="is not an ONNX model that can be run"):
        onnx_export.Session(content, {"a": "number"})


def test_an_honest_onnx_file_of_that_form_is_loaded():
    assert onnx_export.Session(onnx_model(), {"a": "number"}).scores_of_columns({"a": [3.0]}, 1).tolist() == [3.0]


def tensors(header: dict | bytes, content: bytes = b"") -> bytes:
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + content


def floats(shape: list[int], begin: int, end: int) -> dict:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


HOSTILE_TENSORS = {
    "empty": b"",
    "header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "header of 2^40 bytes": struct.pack("<Q", 2**40) + b"{}",
    "no JSON": tensors(b"\xff" * 20),
    "JSON of any depth": tensors(b'{"a":' * 100_000),
    "arrays that overlap": tensors({"0000": floats([2], 0, 8), "0001": floats([2], 4, 12)}, b"\0" * 12),
    "array beyond the end": tensors({"0000": floats([2**40], 0, 2**42)}, b"\0" * 8),
    "a size that overflows": tensors({"0000": floats([2**33, 2**33], 0, 0)}),
    "an unknown type": tensors({"0000": {**floats([1], 0, 8), "dtype": "OBJECT"}}, b"\0" * 8),
    "no such array": tensors({}),
}
KNN = {"class": "ItemKNN", "state": {"dict": [["weights", {"array": "0000"}]]}}
HOSTILE_STATES = {
    "a foreign class": json.dumps({"class": "os.system", "state": {"dict": []}}),
    "a foreign form": json.dumps({"eval": "1"}),
    "no model": "[1]",
    "torn": json.dumps({"dict": [1]}),
    "a matrix that is none": json.dumps({"csr": [{"array": "0000"}] * 3, "shape": [2**40, 2**40]}),
    "any depth": '{"list":[' * 50_000 + "]}" * 50_000,
}


def written(folder, content: bytes, state: str) -> None:
    (folder / "model").mkdir()
    (folder / "model/model.safetensors").write_bytes(content)
    (folder / "model/model.json").write_text(f'{{"state": {state}, "content": "{storage.digest_bytes(content)}"}}')


@pytest.mark.parametrize("name", HOSTILE_TENSORS)
def test_a_hostile_safetensors_file_is_not_loaded(tmp_path, name):
    written(tmp_path, HOSTILE_TENSORS[name], json.dumps(KNN))
    with pytest.raises(ModelError, match="model"):
        candidates.load(tmp_path)


@pytest.mark.parametrize("name", HOSTILE_STATES)
def test_a_hostile_description_of_a_model_is_not_followed(tmp_path, name):
    written(tmp_path, tensors({"0000": floats([2], 0, 8)}, b"\0" * 8), HOSTILE_STATES[name])
    with pytest.raises(ModelError, match="model"):
        candidates.load(tmp_path)


@pytest.mark.parametrize("away", ["/etc/passwd", "loop", "nothing"])
def test_a_link_in_place_of_a_releases_file_is_no_release(tmp_path, away):
    """What a link leads to is not what the ledger cites."""
    (tmp_path / "release.json").write_text(json.dumps({"format": 1, "kind": "classification", "form": "onnx"}))
    (tmp_path / "model.onnx").symlink_to(tmp_path / "model.onnx" if away == "loop" else away)
    with pytest.raises(ModelError, match="was altered"):
        releases.load(tmp_path, "0" * 64)
