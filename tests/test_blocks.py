"""Times of layers, and the block that each layer belongs to."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import tiny_bundle
from checkpoints import LAYOUTS
from exported_graphs import HYPER, SIZE, Exported

from edgeseg import benchmark
from edgeseg.backends import EngineOptions, available_backends, open_engine
from edgeseg.backends._tensorrt.layers import LayerDetail
from edgeseg.backends.base import LayerTime
from edgeseg.bench.blocks import (
    ATTENTION,
    BLOCKS,
    DECODER,
    LAYOUT,
    MLP,
    OTHER,
    PATCH_EMBED,
    POSTPROCESSING,
    PREPROCESSING,
    SEVERAL,
    block_of,
    nodes_in,
)
from edgeseg.bench.profile import merge
from edgeseg.bench.result import read_result
from edgeseg.calib import FP16_MODES, collect_ranges, quantize, to_fp16
from edgeseg.cli import main
from edgeseg.errors import UsageError

TRANSFORMER_BLOCKS = {layout: HYPER[layout].get("depth", 4) for layout in LAYOUTS}
WEIGHT_BLOCKS = (
    (r"(head|decoder)\.last\.", POSTPROCESSING),
    (r"backbone\.(patch_embed|prefix)", PATCH_EMBED),
    (r"backbone\.blocks\.\d+\.(norm1|attn|gamma_1)", ATTENTION),
    (r"backbone\.blocks\.\d+\.(norm2|mlp|gamma_2)", MLP),
    (r"backbone\.norm|(head|decoder)\.(?!last\.)|probes", DECODER),
)


@pytest.fixture(scope="module")
def graphs(exported: Exported) -> dict[str, Path]:
    return {layout: graph.path for layout, (_, graph) in exported.items()}


@pytest.fixture(scope="module", params=["rewritten", "plain"])
def any_graphs(
    request: pytest.FixtureRequest, exported: Exported, exported_plain: Exported
) -> dict[str, Path]:
    """Those of bundles, and what their authors wrote, from which peers are made."""
    made = {"rewritten": exported, "plain": exported_plain}[request.param]
    return {layout: graph.path for layout, (_, graph) in made.items()}


def blocks(graph: Any) -> dict[str, str]:
    outputs = [output.name for output in graph.output]
    return {node.name: block_of(node.name, node.op_type, outputs) for node in graph.node}


def ancestors(graph: Any, nodes: list[Any]) -> set[str]:
    """Names of the nodes whose results reach one of ``nodes``, and of those."""
    writers = {output: node for node in graph.node for output in node.output}
    found: dict[str, Any] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found[node.name] = node
            waiting += [writers[name] for name in node.input if name in writers]
    return set(found)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nodes_belong_to_the_block_whose_weights_they_read(
    any_graphs: dict[str, Path], layout: str
) -> None:
    graph = onnx.load(any_graphs[layout]).graph
    found = blocks(graph)
    checked = Counter()
    for node in graph.node:
        for name in node.input:
            for pattern, block in WEIGHT_BLOCKS:
                # A number such as 0.5 of a GELU is called after its operator, not a weight.
                if re.match(rf"(views\.\d+\.)?({pattern})", name) and "_constant" not in name:
                    assert found[node.name] == block, (node.name, name)
                    checked[block] += 1
    assert set(checked) - {POSTPROCESSING} == {PATCH_EMBED, ATTENTION, MLP, DECODER}
    # At least two nodes of qkv and two of proj, and as many of the MLP; without rewrites norm and
    # LayerScale as well.
    views = len(graph.input)
    assert min(checked[ATTENTION], checked[MLP]) >= views * TRANSFORMER_BLOCKS[layout] * 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_follow_the_flow_of_the_data(any_graphs: dict[str, Path], layout: str) -> None:
    graph = onnx.load(any_graphs[layout]).graph
    found, depth = blocks(graph), TRANSFORMER_BLOCKS[layout]
    assert set(found.values()) <= {PATCH_EMBED, ATTENTION, MLP, DECODER, POSTPROCESSING}
    first = [n for n in graph.node if n.name.endswith("/blocks.0/norm1/LayerNormalization")]
    last = [n for n in graph.node if re.search(rf"/blocks\.{depth - 1}/Add_1$", n.name)]
    assert len(first) == len(last) == len(graph.output)
    embedding = ancestors(graph, first) - {n.name for n in first}
    backbone = ancestors(graph, last)
    assert {n for n, b in found.items() if b == PATCH_EMBED} == embedding
    transformer = {n for n, b in found.items() if b in (ATTENTION, MLP)}
    assert transformer <= backbone - embedding
    # The last block's residual sum may read what a tap cut out for the decoder.
    taps = backbone - embedding - transformer
    assert all(re.search(r"/backbone/Slice(_\d+)?$", name) for name in taps)
    assert len(taps) <= len(graph.output)
    # Attention ends with the residual sum that the second norm reads.
    for block in range(depth):
        second = [n for n in graph.node if f"/blocks.{block}/norm2/" in n.name]
        before = ancestors(graph, second) - {n.name for n in second}
        inside = {n for n in found if f"/blocks.{block}/" in n}
        assert {n for n in inside if found[n] == ATTENTION} == inside & before
    ends = [n for n in graph.node if set(n.output) & {o.name for o in graph.output}]
    assert {found[n.name] for n in ends} == {DECODER if layout == "dino_mvr" else POSTPROCESSING}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_casts_belong_to_the_node_whose_result_they_convert(
    graphs: dict[str, Path], layout: str, tmp_path: Path
) -> None:
    plain = blocks(onnx.load(graphs[layout]).graph)
    for mode in FP16_MODES:
        path = to_fp16(graphs[layout], tmp_path / f"{mode}.onnx", mode).path
        graph = onnx.load(path).graph
        found = blocks(graph)
        assert {n: b for n, b in found.items() if n in plain} == plain
        edges = {f"{i.name}_half_Cast" for i in graph.input}
        edges |= {f"{o.name}_Cast" for o in graph.output}
        assert {n for n, b in found.items() if b in (LAYOUT, OTHER, SEVERAL)} == edges
        for name in set(found) - set(plain) - edges:
            assert found[name] == plain[re.sub(r"_output_\d+_(half|single)_Cast.*", "", name)]


@pytest.fixture(scope="module")
def int8(graphs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, path = tmp_path_factory.mktemp("int8"), graphs["segdino_v2"]
    thresholds = collect_ranges(path, [[image()]], threads=1).thresholds("max")
    return {
        backend: quantize(path, thresholds, backend, folder / f"{backend}.onnx").path
        for backend in ("openvino", "onnxruntime", "tensorrt")
    }


def image() -> np.ndarray:
    shape = (1, 3, SIZE.height_px, SIZE.width_px)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "tensorrt"])
def test_quantisers_belong_to_what_they_quantise(
    graphs: dict[str, Path], int8: dict[str, Path], backend: str
) -> None:
    whole = onnx.load(graphs["segdino_v2"]).graph
    plain = blocks(whole)
    graph = onnx.load(int8[backend]).graph
    found = blocks(graph)
    # Quantising may leave out Transposes that a product with codes needs no more.
    gone = {n.name for n in whole.node if n.name not in found}
    assert all(node.op_type == "Transpose" for node in whole.node if node.name in gone)
    assert {n: b for n, b in found.items() if n in plain} == {
        n: b for n, b in plain.items() if n not in gone
    }
    outside = {n for n, b in found.items() if b in (LAYOUT, OTHER, SEVERAL)}
    assert all(n.startswith(("image_", "logits_")) for n in outside)
    readers = {name: node.name for node in graph.node for name in node.input}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and ".weight_" in node.name:
            assert found[node.name] == plain[readers[node.output[0]]]


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_layers_of_an_engine_are_timed_and_placed(
    graphs: dict[str, Path],
    int8: dict[str, Path],
    backend: str,
    precision: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = graphs["segdino_v2"] if precision == "fp32" else int8[backend]
    tensors = {"image": image()}
    with open_engine(path, backend, EngineOptions(threads=1, profile=True)) as engine:
        plain = engine.infer(tensors)["logits"]
        runs_ms = []
        for _ in range(5):
            start = time.perf_counter()
            engine.infer(tensors)
            runs_ms.append(1e3 * (time.perf_counter() - start))
        layers = engine.profile(tensors, rounds=5)
        assert engine.profile(tensors, rounds=1)  # as often as one likes
        assert (engine.infer(tensors)["logits"] == plain).all()
    assert not any(tmp_path.iterdir())
    found = Counter()
    for layer in layers:
        assert layer.median_ms >= 0 and layer.name and layer.kind
        found[block_of(layer.name, layer.kind, ["logits"])] += layer.median_ms
    assert found[OTHER] == 0, layers
    # A sum of one block with the norm of the next, if at all.
    assert found[SEVERAL] < 0.2 * found.total(), layers
    assert all(found[b] > 0 for b in (PATCH_EMBED, ATTENTION, MLP, DECODER, POSTPROCESSING))
    # Most of a run is spent in layers; the machine may be busy with other things.
    assert 0.3 * min(runs_ms) < found.total() < 10 * max(runs_ms)
    norms = [layer for layer in layers if "LayerNormalization" in layer.name]
    assert len(norms) >= 2 * TRANSFORMER_BLOCKS["segdino_v2"]
    if backend == "openvino":
        # What it takes apart bears the name of the node as well.
        assert all("/" in layer.name for layer in layers if layer.kind == "MVN")


@pytest.mark.parametrize("backend", available_backends())
def test_profiles_that_cannot_be_meant(graphs: dict[str, Path], backend: str) -> None:
    for options, rounds, words in (
        (EngineOptions(threads=1), 5, "profile=True"),
        (EngineOptions(threads=1, profile=True), 0, "at least 1, got 0"),
    ):
        with (
            open_engine(graphs["segdino_v1"], backend, options) as engine,
            pytest.raises(UsageError, match=words),
        ):
            engine.profile({"image": image()}, rounds=rounds)


B = "/backbone/blocks"
TENSORRT = (
    (f"{B}.3/attn/qkv/MatMul", "MatrixMultiply", ATTENTION),
    (f"{B}.3/mlp/fc1/MatMul_myl0_112", "gemm", MLP),
    (f"{B}.3/attn/qkv/MatMul + {B}.3/attn/qkv/Add", "CaskGemmConvolution", ATTENTION),
    (
        "backbone.blocks.3.mlp.fc2.bias + (Unnamed Layer* 40) [Shuffle] + ONNXTRT_Broadcast_9 + "
        f"{B}.3/mlp/fc2/Add",
        "PointWiseV2",
        MLP,
    ),
    (f"PWN(PWN({B}.3/Mul), {B}.3/Add)", "PointWiseV2", ATTENTION),
    (f"PWN({B}.3/Add_1)", "PointWise", MLP),
    ("/decoder/out_conv/Conv + /Resize", "CaskConvolution", SEVERAL),
    ("/Resize", "Resize", POSTPROCESSING),
    # A region is given by its ends: only within one transformer block is it known what is inside.
    (
        f"{{ForeignNode[{B}.3/norm1/LayerNormalization...{B}.3/attn/Reshape_3]}}",
        "Myelin",
        ATTENTION,
    ),
    (f"{{ForeignNode[{B}.0/norm1/LayerNormalization...{B}.11/attn/Reshape_3]}}", "Myelin", SEVERAL),
    (
        "{ForeignNode[backbone.prefix + .../backbone/norm/LayerNormalization_3]}",
        "Myelin",
        SEVERAL,
    ),
    (
        "{ForeignNode[/decoder/sad_intra_1/norm/Reshape.../decoder/sad_intra_1/Add]}",
        "Myelin",
        DECODER,
    ),
    # Myelin tells the kind of its operators; the nodes stand in the engine's layer information.
    ("__myl_FcAddCastMeanSubMulMeanAddSqrtDivMulCastMulAdd_myl5_249", "fusion", OTHER),
    (
        f"__myl_FcAdd_myl0_12 [{B}.3/attn/proj/MatMul, {B}.3/attn/proj/Add, {B}.3/Mul, {B}.3/Add]",
        "fusion",
        ATTENTION,
    ),
    (f"__myl_AddMean_myl0_13 [{B}.3/Add, {B}.3/norm2/LayerNormalization]", "kgen", SEVERAL),
    (
        f"_gemm_mha_v2_myl0_9 [{B}.3/attn/MatMul, {B}.3/attn/Softmax, {B}.3/attn/MatMul_1]",
        "mha",
        ATTENTION,
    ),
    # The same block of several transformer layers or views is still one block of the table.
    (f"/views.0{B}.3/attn/Mul + /views.1{B}.3/attn/Mul", "PointWise", ATTENTION),
    (
        "Reformatting CopyNode for Input Tensor 0 to /backbone/patch_embed/Conv",
        "Reformat",
        PATCH_EMBED,
    ),
    ("Reformatting CopyNode for Output Tensor 0 to logits", "Reformat", LAYOUT),
    (
        "Reformatting CopyNode for Input Tensor 0 to "
        f"{{ForeignNode[{B}.0/norm1/LayerNormalization.../head/out_conv/Conv]}}",
        "Reformat",
        LAYOUT,
    ),
)


@pytest.mark.parametrize(("name", "kind", "block"), TENSORRT)
def test_names_of_tensorrt(name: str, kind: str, block: str) -> None:
    assert block_of(name, kind, ["logits"]) == block


def test_nodes_that_tensorrt_lists_beside_the_name_count() -> None:
    first, second = f"{B}.3/Mul", f"{B}.3/Mul_1"
    both = LayerDetail(f"{second}_myl0_4", "kgen", (first, second))
    assert nodes_in(both.label)[-1] == first and block_of(both.label, both.kind) == SEVERAL
    one = LayerDetail(f"{first} + {B}.3/Add", "kgen", (first, f"{B}.3/Add"))
    assert one.label == one.name and block_of(one.label, one.kind) == ATTENTION


LIBRARIES = (
    ("image_abcd_acdb_/backbone/patch_embed/Conv/WithoutBiases", "Reorder", PATCH_EMBED),
    ("/backbone/Reshape_1_abcd_acdb_/decoder/token_projections.0/Conv", "Reorder", DECODER),
    (f"{B}.0/Add_1_abcd_acdb_/decoder/out_conv/Conv", "Reorder", LAYOUT),
    ("/decoder/out_conv/Conv_acdb_abcd_/Resize", "Reorder", LAYOUT),
    ("logits_acdb_abcd_logits/sink_port_0", "Reorder", LAYOUT),
    ("image_QuantizeLinear", "Subgraph", LAYOUT),
    (f"{B}.0/norm1/LayerNormalization/MVN_29", "MVN", ATTENTION),
    ("/backbone/patch_embed/Conv_output_0_nchwc", "Conv", PATCH_EMBED),
    (f"{B}.2/mlp/fc1/MatMul/MatMulAddFusion", "Gemm", MLP),
    ("InsertedPrecisionFreeCast_/head/scratch.layer1_rn/Conv_output_0_nchwc", "Conv", DECODER),
    ("InsertedPrecisionFreeCast_backbone.blocks.1.gamma_2_half", "Cast", MLP),
    ("gemm_input_reshape_token_2", "Reshape", LAYOUT),
    ("ReorderOutput_token_206", "ReorderOutput", LAYOUT),
    ("logits_nchwc", "Upsample", POSTPROCESSING),
    ("logits", "MatMul", POSTPROCESSING),
    ("/head/last/resample_y/MatMul", "MatMul", POSTPROCESSING),
    ("/decoder/last/Resize", "Upsample", POSTPROCESSING),
    ("/decoder/Resize_2", "Upsample", DECODER),
    (f"{B}.11/Slice", "StridedSlice", ATTENTION),
    ("SkipLayerNormalization_token_333", "SkipLayerNormalization", SEVERAL),
    ("Erf_349", "Erf", OTHER),
)


@pytest.mark.parametrize(("name", "kind", "block"), LIBRARIES)
def test_names_of_openvino_and_onnxruntime(name: str, kind: str, block: str) -> None:
    assert block_of(name, kind, ["logits"]) == block


def test_a_name_names_its_nodes_once_and_in_order() -> None:
    name = f"PWN({B}.3/Mul) + backbone.norm.weight + {B}.3/Mul [{B}.3/Mul_1, {B}.3/Add]"
    assert nodes_in(name) == (f"{B}.3/Mul", "backbone.norm.weight", f"{B}.3/Mul_1", f"{B}.3/Add")
    assert nodes_in("{ForeignNode[/head/Add.../Resize]}") == ("/head/Add", "/Resize")
    assert nodes_in("__myl_Fc_myl0_2") == ()


def test_the_table_sums_layers_and_stages() -> None:
    layers = [
        LayerTime(f"{B}.0/attn/MatMul", "MatMul", 1.0),
        LayerTime(f"{B}.1/attn/MatMul", "MatMul", 2.0),
        LayerTime("/Resize", "Resize", 0.5),
        LayerTime("who knows", "Erf", 0.25),
    ]
    stages = {"preprocess_ms": 4.0, "inference_ms": 3.0, "readout_ms": 0.25}
    table = merge(layers, outputs=["logits"], **stages)
    assert [(b.name, b.ms, b.share) for b in table.blocks] == [
        (PREPROCESSING, 4.0, 0.5),
        (ATTENTION, 3.0, 0.375),
        (POSTPROCESSING, 0.75, 0.09375),
        (OTHER, 0.25, 0.03125),
    ]
    assert [layer.median_ms for layer in table.blocks[1].layers] == [2.0, 1.0]
    (remark,) = table.remarks()
    assert "3.75 ms profiled" in remark and "3.00 ms unprofiled" in remark
    record = json.loads(json.dumps(table.record(), allow_nan=False))
    assert record["sum_of_profiled_layers_ms"] == 3.75
    assert record["unprofiled_inference_ms"] == 3.0
    assert record["blocks"][1]["slowest"][0] == {
        "name": f"{B}.1/attn/MatMul",
        "kind": "MatMul",
        "ms": 2.0,
    }
    assert [block["layers"] for block in record["blocks"]] == [0, 2, 1, 1]
    faster = merge(layers[:1], outputs=[], **stages)
    assert faster.remarks() != table.remarks() and "1.00 ms profiled" in faster.remarks()[0]


@pytest.mark.usefixtures("quick_bench")
@pytest.mark.parametrize("backend", available_backends())
def test_bench_profiles(backend: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    bundle, folder = tiny_bundle(tmp_path / "tiny.edgeseg"), tmp_path / "bench"
    arguments = ["bench", str(bundle), "--backend", backend, "--rounds", "3", "-o", str(folder)]
    arguments += ["--frame", "60x80", "--threads", "1", "--profile"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    result = read_result(folder / "result.json")
    assert result.blocks is not None
    found = {block["block"]: block for block in result.blocks["blocks"]}
    assert set(found) <= set(BLOCKS) and PREPROCESSING in found and POSTPROCESSING in found
    assert sum(block["share"] for block in found.values()) == pytest.approx(1.0)
    assert all(name in shown for name in found)
    assert f"{result.blocks['unprofiled_inference_ms']:.2f} ms unprofiled" in shown
    assert result.blocks["unprofiled_inference_ms"] == result.stages_ms["inference"]["p50"]


@pytest.mark.usefixtures("quick_bench")
def test_a_benchmark_without_profile_has_no_blocks(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny.edgeseg")
    report = benchmark(bundle, rounds=3, threads=1, frame_hw_px=(60, 80))
    assert report.blocks is None and report.result.blocks is None
