"""Clean-up of an exported graph: fewer nodes, no traces of the machine that made it.

Weights are never folded here: they stay as they are stored, so that graphs can share them, and ONNX Runtime folds
what is done to them (scales, flips, casts) once, when it loads the graph. onnxscript's rewrite rules are left out: they
take a constant for zero when it is close to it, and so drop the 1e-8 that keeps a root away from zero.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

from limner.export.onnx.rewrites import rewrite

FOLD_LIMIT = 1024  # elements: shapes and scalars are folded, weights are not


def simplify(model: ir.Model) -> ir.Model:
    """Fold shape arithmetic, drop dead and repeated nodes, and remove notes left by the exporter; in place."""
    common.InlinePass()(model)
    for _ in range(2):
        fold_constants(model, onnx_shape_inference=True, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT)
        common.RemoveUnusedNodesPass()(model)
        rewrite(model)
    common.IdentityEliminationPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.NameFixPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    _forget_origin(model)
    return model


def _forget_origin(model: ir.Model) -> None:
    """Clear names and properties that tell where and by what module the graph was made."""
    model.producer_name, model.producer_version, model.doc_string = "limner", None, None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.name = model.graph.name or "graph"
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
