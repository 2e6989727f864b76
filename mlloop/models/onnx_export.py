"""A fitted scikit-learn estimator as ONNX: how it is converted, run, and held against the estimator on real rows.

An ONNX file is a graph of arithmetic: nothing in it runs code of its own. Converters that the libraries lack are here:
encoders that put rare categories together, the words of text, LightGBM's wrapper, the perceptron. A text is cut into words
before the graph, by the function that training uses, since no graph knows the letters of every script.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlloop.core import prose
from mlloop.core.errors import ModelError
from mlloop.core.records import JsonObject

if TYPE_CHECKING:
    import pandas as pd

MISSING = "\x01missing"
NO_WORD = "\x02"  # ends a text, and fills short ones up
AT_ONCE = 256  # rows with text: each is as wide as the longest of them
PROSE = "mlloop.prose"  # the key of a graph's metadata that names the inputs whose words are read
OPSET = {"": 17, "ai.onnx.ml": 3}
VERSIONS = {"LabelEncoder": 2, "TreeEnsembleRegressor": 3}  # else 13, and 1 in ai.onnx.ml
NUMBER, TEXT = "number", "text"
FLOAT, INT64, DOUBLE = 1, 7, 11  # onnx.TensorProto's numbers of the types

OTHERWISE = "Nothing is lost: the trained form goes out instead (skops). To see which: mlloop why MODEL"


@dataclass(frozen=True)
class Parity:
    """How far the production form lies from the trained model on real rows.

    Attributes
    ----------
    rows : int
        Rows compared.
    largest, mean : float
        Absolute differences of the scores (probabilities, or predicted numbers divided by their spread).
    bound : float
        What `largest` may be.
    unit : str
    """

    rows: int
    largest: float
    mean: float
    bound: float
    unit: str

    @property
    def holds(self) -> bool:
        """Whether every row's difference is within the bound."""
        return self.rows > 0 and self.largest <= self.bound


# ------------------------------------------------------------------------------------------------ converting


def convert(estimator: Any, inputs: Mapping[str, str], double: bool = True) -> bytes:
    """The estimator as an ONNX model with one input a column; the same estimator gives the same bytes.

    Parameters
    ----------
    estimator : fitted scikit-learn pipeline
    inputs : dict of str to str
        Column -> 'number' or 'text', in the order of the columns.
    double : bool
        Numbers in 64 bits, as the estimator has them: in 32 a row can fall on the other side of a tree's threshold.

    Raises
    ------
    ModelError
        A part that no converter knows; says which.
    """
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType

    _register()
    kinds = {NUMBER: DoubleTensorType if double else FloatTensorType, TEXT: StringTensorType}
    types = [(name, kinds[kind]([None, 1])) for name, kind in inputs.items()]
    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "predict_proba") else None
    try:
        converted = to_onnx(estimator, initial_types=types, options=options, target_opset=OPSET)
    except Exception as error:  # the converters raise whatever they meet
        message = " ".join(str(error).split())[:200]
        raise ModelError(f"has no form in ONNX: {message}", type(estimator).__name__, OTHERWISE) from error
    converted.graph.name, converted.producer_version, converted.doc_string = "model", "", ""
    opsets = sorted(converted.opset_import, key=lambda opset: opset.domain)  # the converter has them in a set's order
    del converted.opset_import[:]
    converted.opset_import.extend(opsets)
    if NUMBER not in inputs.values():
        _scores_in_64_bits(converted.graph)
    columns = _columns_of_prose(estimator)
    if columns:
        converted.metadata_props.add(key=PROSE, value=json.dumps(columns))
    return converted.SerializeToString(deterministic=True)


def _scores_in_64_bits(graph: Any) -> None:
    """Cast the scores at the end: skl2onnx declares them as 32 bits where no column is a number, and computes them in 64."""
    from onnx import helper

    scores = graph.output[-1]
    inside = f"{scores.name}_computed"
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [inside if name == scores.name else name for name in names]
    graph.node.append(helper.make_node("Cast", [inside], [scores.name], name="ScoresCast", to=DOUBLE))
    scores.type.tensor_type.elem_type = DOUBLE


def _register() -> None:
    """Tell skl2onnx of the converters it lacks; again is the same."""
    from lightgbm import LGBMClassifier, LGBMRegressor
    from skl2onnx import update_registered_converter as add
    from skl2onnx.common import shape_calculator as shapes
    from skl2onnx.operator_converters import multilayer_perceptron as layers
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

    from mlloop.models.perceptron import PerceptronClassifier, PerceptronRegressor
    from mlloop.models.words import Words

    of_class, of_number = (
        shapes.calculate_linear_classifier_output_shapes,
        shapes.calculate_linear_regressor_output_shapes,
    )
    choices = {
        "nocl": [True, False],
        "zipmap": [True, False, "columns"],
        "output_class_labels": [False, True],
        "raw_scores": [True, False],
    }
    add(LGBMClassifier, "BoostedClassifier", _boosted_shape, _boosted, options=choices)
    add(LGBMRegressor, "BoostedRegressor", _boosted_shape, _boosted)
    add(PerceptronClassifier, "Perceptron", of_class, layers.convert_sklearn_mlp_classifier, options=choices)
    add(PerceptronRegressor, "PerceptronRegressor", of_number, layers.convert_sklearn_mlp_regressor)
    add(SimpleImputer, "FilledIn", _filled_shape, _filled)
    add(OneHotEncoder, "RareOneHot", _one_hot_shape, _one_hot)
    add(OrdinalEncoder, "RareOrdinal", _ordinal_shape, _ordinal)
    add(TargetEncoder, "TargetMeans", _ordinal_shape, _target_means)
    add(Words, "Words", _words_shape, _words)


def _filled_shape(operator: Any) -> None:
    input_type = operator.inputs[0].type
    operator.outputs[0].type = type(input_type)([None, sum(variable.type.shape[1] for variable in operator.inputs)])


def _filled(scope: Any, operator: Any, container: Any) -> None:
    """A missing number becomes the column's statistic; onnxruntime's own Imputer knows 32 bits only."""
    model = operator.raw_operator
    values = np.asarray(model.statistics_)
    if (
        values.dtype.kind != "f"
        or np.isnan(values).any()
        or model.add_indicator
        or model.missing_values == model.missing_values
    ):
        raise ModelError("fills in other than numbers for NaN, which has no converter here", "SimpleImputer", OTHERWISE)
    is_double = type(operator.inputs[0].type).__name__.startswith("Double")
    names = [variable.full_name for variable in operator.inputs]
    joined = names[0] if len(names) == 1 else _node(scope, container, "Concat", names, axis=1)
    filler = scope.get_unique_variable_name("filler")
    container.add_initializer(filler, DOUBLE if is_double else FLOAT, [len(values)], values.tolist())
    missing = _node(scope, container, "IsNaN", [joined])
    name = scope.get_unique_operator_name("Where")
    container.add_node("Where", [missing, filler, joined], operator.outputs[0].full_name, op_version=9, name=name)


def _one_hot_shape(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType

    operator.outputs[0].type = DoubleTensorType([None, sum(_widths(operator.raw_operator))])


def _ordinal_shape(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType

    operator.outputs[0].type = DoubleTensorType([None, len(operator.raw_operator.categories_)])


def _widths(encoder: Any) -> list[int]:
    return [int(width) for width in encoder._n_features_outs]


def _one_hot(scope: Any, operator: Any, container: Any) -> None:
    """Each column: its category's place, then a one at that place; a place of -1 is all zeros."""
    encoder, blocks = operator.raw_operator, []
    if encoder.drop_idx_ is not None:
        raise ModelError("drops categories, which has no converter here", "OneHotEncoder", OTHERWISE)
    columns = zip(_columns(scope, operator, container), _places(encoder), _widths(encoder), strict=True)
    for column, (places, unknown), width in columns:
        code = _node(scope, container, "LabelEncoder", [column], op_domain="ai.onnx.ml",
                      keys_strings=list(places), values_int64s=list(places.values()), default_int64=unknown)  # fmt: skip
        ones = _node(scope, container, "OneHotEncoder", [code], op_domain="ai.onnx.ml",
                     cats_int64s=list(range(width)), zeros=1)  # fmt: skip
        shape = _constant(scope, container, np.array([-1, width]))
        blocks.append(_node(scope, container, "Reshape", [ones, shape]))
    _join(scope, container, blocks, operator.outputs[0].full_name)


def _ordinal(scope: Any, operator: Any, container: Any) -> None:
    """Each column: the rank of its category as a number."""
    encoder, ranks = operator.raw_operator, []
    for column, (places, unknown) in zip(_columns(scope, operator, container), _places(encoder), strict=True):
        named = dict(keys_strings=list(places), values_floats=[float(v) for v in places.values()])
        ranks.append(
            _node(
                scope,
                container,
                "LabelEncoder",
                [column],
                op_domain="ai.onnx.ml",
                **named,
                default_float=float(unknown),
            )
        )
    _join(scope, container, ranks, operator.outputs[0].full_name)


def _target_means(scope: Any, operator: Any, container: Any) -> None:
    """Each column: the mean target of its category, in 64 bits, which a LabelEncoder's own values are not."""
    encoder, means = operator.raw_operator, []
    columns = zip(_columns(scope, operator, container), encoder.categories_, encoder.encodings_, strict=True)
    for column, known, values in columns:
        code = _node(scope, container, "LabelEncoder", [column], op_domain="ai.onnx.ml",
                     keys_strings=[text(value) for value in known], values_int64s=list(range(len(known))),
                     default_int64=len(known))  # fmt: skip
        table = _constant(scope, container, np.append(np.asarray(values, dtype=float), float(encoder.target_mean_)))
        means.append(_node(scope, container, "Gather", [table, code]))
    _join(scope, container, means, operator.outputs[0].full_name)


def _columns_of_prose(estimator: Any) -> list[str]:
    """The columns whose words a fitted pipeline reads."""
    from mlloop.models.words import Words

    columns: list[str] = []
    for _, step in getattr(estimator, "steps", []):
        for _, part, names in getattr(step, "transformers_", []):
            first = part.steps[0][1] if hasattr(part, "steps") else part
            columns += map(str, names) if isinstance(first, Words) else []
    return columns


def _words_shape(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType

    operator.outputs[0].type = DoubleTensorType([None, len(operator.raw_operator.get_feature_names_out())])


def _words(scope: Any, operator: Any, container: Any) -> None:
    """Each column, stated as `words_of_input` states it: the weights of its terms, or topics and score; then its counts."""
    node = lambda kind, *inputs, **named: _node(scope, container, kind, list(inputs), **named)
    number = lambda values: _constant(scope, container, np.asarray(values, dtype=float))
    places = lambda *values: _constant(scope, container, np.array(values))
    blocks = []
    for name, column in zip(_columns(scope, operator, container), operator.raw_operator.columns_, strict=True):
        cut = node("Tokenizer", name, op_domain="com.microsoft", mark=0, mincharnum=1, pad_value=NO_WORD,
                   separators=[" "])  # fmt: skip
        tokens = node("Squeeze", cut, places(1))  # (N, 1 + words)
        words = node("Slice", tokens, places(1), places(2**31 - 1), places(1))
        length = node("Cast", node("Slice", tokens, places(0), places(1), places(1)), to=DOUBLE)
        is_word = node("LabelEncoder", words, op_domain="ai.onnx.ml", keys_strings=[NO_WORD], values_floats=[0.0],
                       default_float=1.0)  # fmt: skip
        number_of = node("Cast", node("ReduceSum", is_word, places(1), keepdims=1), to=DOUBLE)
        logs = node("Log", node("Add", node("Concat", length, number_of, axis=1), number(1.0)))
        counts = node("Concat", logs, node("Min", length, number(1.0)), axis=1)
        if column.vectorizer_ is not None:
            weights = _weights(node, number, places, words, column.vectorizer_)
            if column.dims:
                weights = node("Add", node("MatMul", weights, number(column.directions_)), number(column.offsets_))
            blocks.append(weights)
        blocks.append(node("Div", node("Sub", counts, number(column.means_)), number(column.scales_)))
    _join(scope, container, blocks, operator.outputs[0].full_name)


def _weights(node: Any, number: Any, places: Any, words: str, vectorizer: Any) -> str:
    """TF-IDF in 64 bits, which onnxruntime's own operator is not: it counts, and the rest is arithmetic."""
    terms = vectorizer.get_feature_names_out().tolist()
    singles, pairs = ([term for term in terms if (" " in term) == both] for both in (False, True))
    at = {term: i for i, term in enumerate(terms)}
    n = 2 if pairs else 1
    counted = node("TfIdfVectorizer", words, mode="TF", min_gram_length=1, max_gram_length=n, max_skip_count=0,
                   ngram_counts=[0, len(singles)][:n], ngram_indexes=[at[term] for term in (*singles, *pairs)],
                   pool_strings=[*singles, *(word for term in pairs for word in term.split(" "))])  # fmt: skip
    often = node("Cast", counted, to=DOUBLE)
    unit = number(1.0)
    damped = node("Add", node("Log", node("Max", often, unit)), node("Min", often, unit))
    weighed = node("Mul", damped, number(vectorizer.idf_))
    size = node("ReduceSum", node("Mul", weighed, weighed), places(1), keepdims=1)
    return node("Div", weighed, node("Max", node("Sqrt", size), number(1e-300)))


def _places(encoder: Any) -> list[tuple[dict[str, int], int]]:
    """For each column: category (as text) -> its place in the encoder's output, and the place of an unknown one."""
    rare = getattr(encoder, "_infrequent_indices", None) or [None] * len(encoder.categories_)
    mappings = getattr(encoder, "_default_to_infrequent_mappings", None) or [None] * len(encoder.categories_)
    mapped = []
    for at_column, (known, infrequent, mapping) in enumerate(zip(encoder.categories_, rare, mappings, strict=True)):
        position = list(range(len(known))) if mapping is None else [int(p) for p in mapping]
        unknown = -1
        if encoder.handle_unknown == "infrequent_if_exist" and infrequent is not None:
            unknown = position[int(infrequent[0])]
        if encoder.handle_unknown == "use_encoded_value":
            unknown = encoder.unknown_value
        places = {text(value): at for value, at in zip(known, position, strict=True)}
        if at_column in getattr(encoder, "_missing_indices", {}):  # of NaN; scikit-learn ranks None as a category
            places[MISSING] = encoder.encoded_missing_value
        mapped.append((places, unknown))
    return mapped


def _columns(scope: Any, operator: Any, container: Any) -> list[str]:
    """The names of the single columns that reach an encoder, which may come joined."""
    names = []
    for inputs in operator.inputs:
        width = inputs.type.shape[1]
        for at in range(width):
            index = _constant(scope, container, np.array([at]))
            names.append(
                inputs.full_name
                if width == 1
                else _node(scope, container, "ArrayFeatureExtractor", [inputs.full_name, index], op_domain="ai.onnx.ml")
            )
    return names


def _node(scope: Any, container: Any, kind: str, inputs: list[str], op_domain: str = "", **attributes: Any) -> str:
    name = scope.get_unique_variable_name(kind.lower())
    container.add_node(
        kind,
        inputs,
        name,
        op_domain=op_domain,
        op_version=VERSIONS.get(kind, 1 if op_domain else 13),
        name=scope.get_unique_operator_name(kind),
        **attributes,
    )
    return name


def _constant(scope: Any, container: Any, values: np.ndarray) -> str:
    name = scope.get_unique_variable_name("constant")
    container.add_initializer(name, INT64 if values.dtype.kind == "i" else DOUBLE, list(values.shape), values.tolist())
    return name


def _join(scope: Any, container: Any, names: list[str], output: str) -> None:
    joined = _node(scope, container, "Concat", names, axis=1)
    container.add_node("Cast", joined, output, op_version=13, name=scope.get_unique_operator_name("Cast"), to=DOUBLE)


def _boosted_shape(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType

    if len(operator.outputs) > 1:
        operator.outputs[0].type = Int64TensorType([None])
    width = len(operator.raw_operator.classes_) if len(operator.outputs) > 1 else 1
    operator.outputs[-1].type = DoubleTensorType([None, width])


OF_LOGARITHM = ("poisson", "tweedie", "gamma")  # whose trees sum to the logarithm of the prediction


def _boosted(scope: Any, operator: Any, container: Any) -> None:
    """LightGBM's trees in 64 bits; onnxmltools' converter rounds thresholds to 32, and rows change sides."""
    model = operator.raw_operator
    dump = model.booster_.dump_model()
    objective, per_round = dump["objective"].split(), dump["num_tree_per_iteration"]
    kind = objective[0]
    if kind not in ("binary", "multiclass", "regression", "regression_l1", "huber", "quantile", "mape", *OF_LOGARITHM):
        raise ModelError(f"has objective {kind!r}, which has no converter here", "LightGBM", OTHERWISE)
    if per_round == 1 and dump.get("average_output"):
        raise ModelError("averages its trees, which has no converter here", "LightGBM", OTHERWISE)
    trees = _trees(dump["tree_info"], per_round)
    total = _node(scope, container, "TreeEnsembleRegressor", [operator.inputs[0].full_name], op_domain="ai.onnx.ml",
                n_targets=per_round, post_transform="NONE", aggregate_function="SUM", **trees)  # fmt: skip
    raw = _node(scope, container, "Cast", [total], to=DOUBLE)
    out = operator.outputs[-1].full_name
    named = lambda kind: scope.get_unique_operator_name(kind)
    if kind == "binary":
        slope = next((float(part.partition(":")[2]) for part in objective if part.startswith("sigmoid:")), 1.0)
        steep = _node(scope, container, "Mul", [raw, _constant(scope, container, np.array([slope]))])
        chance = _node(scope, container, "Sigmoid", [steep])
        other = _node(scope, container, "Sub", [_constant(scope, container, np.array([1.0])), chance])
        container.add_node("Concat", [other, chance], out, op_version=13, name=named("Concat"), axis=1)
    elif kind == "multiclass":
        container.add_node("Softmax", raw, out, op_version=13, name=named("Softmax"), axis=1)
    else:
        last = "Exp" if kind in OF_LOGARITHM else "Identity"
        container.add_node(last, raw, out, op_version=13, name=named(last))
    if len(operator.outputs) > 1:
        label = operator.outputs[0].full_name
        container.add_node("ArgMax", out, label, op_version=13, name=named("ArgMax"), axis=1, keepdims=0)


NODE = ("treeids", "nodeids", "featureids", "modes", "truenodeids", "falsenodeids", "missing_value_tracks_true")


def _trees(trees: list[JsonObject], per_round: int) -> JsonObject:
    """The attributes of ONNX's TreeEnsembleRegressor."""
    from onnx import numpy_helper

    nodes, thresholds, leaves, weights = [], [], [], []
    for tree in trees:
        number = tree["tree_index"]
        for at, yes, node in _numbered(tree["tree_structure"]):
            if "leaf_value" in node:
                nodes.append((number, at, 0, "LEAF", 0, 0, 0))
                thresholds.append(0.0)
                leaves.append((number, at, number % per_round))
                weights.append(float(node["leaf_value"]))
            else:
                nodes.append((number, at, node["split_feature"], "BRANCH_LEQ", yes, yes + 1, _missing_goes_left(node)))
                thresholds.append(float(node["threshold"]))
    return {
        **{f"nodes_{name}": list(values) for name, values in zip(NODE, zip(*nodes, strict=True), strict=True)},
        **{
            f"target_{name}": list(v)
            for name, v in zip(("treeids", "nodeids", "ids"), zip(*leaves, strict=True), strict=True)
        },
        "nodes_values_as_tensor": numpy_helper.from_array(np.array(thresholds), "nodes_values_as_tensor"),
        "target_weights_as_tensor": numpy_helper.from_array(np.array(weights), "target_weights_as_tensor"),
    }


def _numbered(root: JsonObject) -> Iterator[tuple[int, int, JsonObject]]:
    """Every node of a tree with its number and that of its left child; the right child's is the next."""
    waiting, count = [(0, root)], 1
    while waiting:
        at, node = waiting.pop()
        yield at, count, node
        if "leaf_value" not in node:
            waiting += [(count + 1, node["right_child"]), (count, node["left_child"])]
            count += 2


def _missing_goes_left(node: JsonObject) -> int:
    """Where LightGBM sends NaN: its default side, or as if it were 0 where training saw none."""
    if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
        how = f"{node['decision_type']!r} with {node['missing_type']!r} missing"
        raise ModelError(f"splits by {how}, which has no converter here", "LightGBM", OTHERWISE)
    return int(node["default_left"] if node["missing_type"] == "NaN" else float(node["threshold"]) >= 0)


# ------------------------------------------------------------------------------------------------ running


def text(value: Any) -> str:
    """A category as ONNX sees it: its text, or a mark for a missing one."""
    if value is None or value != value or str(value) == "<NA>":
        return MISSING
    return str(value)


def words_of_input(value: Any) -> str:
    """A text as the graph takes it: the number of its characters, its words, and a mark for its end."""
    content = prose.as_text(value)
    return f"{len(content)} {prose.words_of(content)} {NO_WORD}"


class Session:
    """An ONNX model ready to answer.

    Parameters
    ----------
    content : bytes
    inputs : dict of str to str
        As given to `convert`.
    """

    def __init__(self, content: bytes, inputs: Mapping[str, str]):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise ModelError(
                f"is not an ONNX model that can be run: {error}",
                "model.onnx",
                "Make it again: mlloop run --from deployment",
            ) from error
        self.inputs = dict(inputs)
        self._outputs = [node.name for node in self._session.get_outputs()]
        kinds = {"tensor(double)": np.float64, "tensor(float)": np.float32}
        declared = self._session.get_inputs()
        self._numbers = {node.name: kinds[node.type] for node in declared if node.type in kinds}
        # the converter spells names such as 'weight (kg)' in its own way, and keeps their order
        self._called = dict(zip(self.inputs, [node.name for node in declared], strict=False))
        self._called |= {node.name: node.name for node in declared if node.name in self.inputs}
        self._prose = set(json.loads(self._session.get_modelmeta().custom_metadata_map.get(PROSE, "[]")))

    def scores_of_columns(self, columns: Mapping[str, Sequence[Any]], n: int) -> np.ndarray:
        """Probabilities (n, n_classes), or numbers (n,), of `n` rows as name -> values; missing: None."""
        feed = {}
        for name, kind in self.inputs.items():
            values, called = columns[name], self._called.get(name, name)
            if kind == NUMBER:  # NumPy reads None as NaN
                feed[called] = np.array(values, dtype=self._numbers[called]).reshape(n, 1)
            elif name in self._prose:
                feed[called] = np.array([words_of_input(v) for v in values], dtype=object).reshape(n, 1)
            else:
                feed[called] = np.array([v if type(v) is str else text(v) for v in values], dtype=object).reshape(n, 1)
        if not self._prose or n <= AT_ONCE:
            return self._run(feed)
        starts = range(0, n, AT_ONCE)
        parts = [self._run({key: values[at : at + AT_ONCE] for key, values in feed.items()}) for at in starts]
        return np.concatenate(parts)

    def scores_of_frame(self, frame: "pd.DataFrame") -> np.ndarray:
        """The same of a data frame."""
        gone = frame.isna()
        listed = {
            name: [None if g else v for v, g in zip(frame[name].tolist(), gone[name], strict=True)]
            for name in self.inputs
        }
        return self.scores_of_columns(listed, len(frame))

    def _run(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        answered = self._session.run(self._outputs[-1:], feed)[0]
        return answered if answered.ndim == 2 and answered.shape[1] > 1 else answered.reshape(-1)


def parity(expected: np.ndarray, computed: np.ndarray, bound: float = 1e-4, share: bool = True) -> Parity:
    """Hold the production form's scores against the trained model's.

    Parameters
    ----------
    expected, computed : ndarray (n_rows,) or (n_rows, n_classes)
    bound : float
        Largest difference allowed.
    share : bool
        Whether these are probabilities; differences of numbers are counted in standard deviations of `expected`.
    """
    expected, computed = np.asarray(expected, dtype=float), np.asarray(computed, dtype=float)
    if expected.shape != computed.shape:
        raise ModelError(f"answers in the shape {computed.shape}, expected {expected.shape}", "model.onnx", OTHERWISE)
    scale = 1.0 if share else float(expected.std()) or 1.0
    apart = np.abs(expected - computed) / scale
    apart[np.isnan(expected) & np.isnan(computed)] = 0.0
    largest = float(apart.max()) if apart.size else 0.0
    if not np.isfinite(largest):
        largest = float("inf")
    unit = "probability" if share else "standard deviations"
    return Parity(len(expected), largest, float(apart.mean()) if apart.size else 0.0, bound, unit)
