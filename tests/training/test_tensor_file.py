"""Files of tensors: the bytes of the safetensors library, without ever holding a file whole."""

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.distributed.shards import Part
from bigtrain.errors import CheckpointError
from bigtrain.storage import durable
from bigtrain.storage.boxes import Box
from bigtrain.training import tensor_file
from bigtrain.training.tensor_file import TensorFile, copy_parts, load_tensors, stored_tensors

from ..storage.test_boxes import SHAPES as ANY_SHAPE
from ..storage.test_boxes import tilings

DTYPES = list(tensor_file._DTYPES.values())
SHAPES = [(), (0,), (1,), (7,), (2, 3), (3, 0, 2), (2, 3, 4, 5)]
LAYOUTS = {
    "contiguous": lambda tensor: tensor,
    "transposed": lambda tensor: tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor,
    "channels_last": lambda tensor: (
        tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
    ),
    "strided": lambda tensor: torch.stack([tensor, tensor], dim=-1)[..., 0],
}
TENSORS = st.dictionaries(
    st.text(max_size=8),
    st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES), st.sampled_from(sorted(LAYOUTS))),
    max_size=6,
)


def tensors_of(drawn):
    made = {}
    for name, (dtype, shape, layout) in drawn.items():
        made[name] = LAYOUTS[layout]((torch.randn(shape) * 50).to(dtype))
    return made


def content(file):
    return b"".join(bytes(piece) for piece in file.pieces())


@given(TENSORS)
def test_the_bytes_are_those_of_the_library(drawn):
    tensors = tensors_of(drawn)
    file = TensorFile.of(tensors)
    expected = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    assert content(file) == expected
    assert len(file) == len(expected)
    metadata = {"format": "pt"}
    described = TensorFile.of(tensors, metadata)
    assert content(described) == safetensors.torch.save(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, metadata
    )
    assert content(file.copied(torch.empty(file.data_bytes, dtype=torch.uint8))) == expected


def test_what_is_written_is_read_back_by_the_library_and_by_us(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "PIECE_BYTES", 64)  # so that a thread hashes
    tensors = tensors_of({f"{dtype}": (dtype, (2, 3, 4, 5), "channels_last") for dtype in DTYPES})
    digest = durable.write_new(tmp_path / "file", TensorFile.of(tensors))
    assert digest == durable.sha256_of(tmp_path / "file")
    read = safetensors.torch.load_file(tmp_path / "file")
    into = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}  # of the same strides
    load_tensors([tmp_path / "file"], into)
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor) and torch.equal(into[name], tensor), name


def test_a_copy_stays_as_it_was():
    live = {"weight": torch.zeros(5), "bias": torch.ones(3, dtype=torch.bfloat16)}
    file = TensorFile.of(live)
    copied = file.copied(torch.empty(file.data_bytes, dtype=torch.uint8))
    before = content(file)
    for tensor in live.values():
        tensor += 1
    assert content(copied) == before != content(file)


def test_pieces_are_small_and_share_memory_with_the_tensors(monkeypatch):
    monkeypatch.setattr(tensor_file, "PIECE_BYTES", 1 << 10)
    weight = torch.zeros(100, 30)
    _, *pieces = TensorFile.of({"weight": weight}).pieces()
    assert [piece.nbytes for piece in pieces] == [1024] * 11 + [736]
    weight += 1
    assert bytes(pieces[0]) == bytes(torch.ones(256).numpy())


def part_of(whole, box):
    """A part that a rank holds of its own: nothing around it in memory."""
    values = whole[tuple(slice(begin, begin + length) for begin, length in zip(box.offsets, box.shape, strict=True))]
    return Part(values.clone(), tuple(whole.shape), box.offsets, True)


@st.composite
def resharded(draw):
    """Name → (dtype, shape, boxes that are written, boxes that are read), and how many files are written."""
    tensors = {}
    for name in draw(st.sets(st.sampled_from(["a", "b/exp_avg", "é", ""]), min_size=1)):
        shape = draw(ANY_SHAPE)
        tensors[name] = (draw(st.sampled_from(DTYPES)), shape, draw(tilings(shape)), draw(tilings(shape)))
    return tensors, draw(st.integers(1, 4))


@given(drawn=resharded())
def test_any_tiling_is_read_into_any_other_to_the_bit(drawn, tmp_path_factory):
    drawn, count = drawn
    wholes = {name: (torch.randn(shape) * 50).to(dtype) for name, (dtype, shape, _, _) in drawn.items()}
    files = []
    for number in range(count):
        parts = {
            name: [part_of(wholes[name], box) for box in written[number::count]]
            for name, (_, _, written, _) in drawn.items()
        }
        files.append(tmp_path_factory.getbasetemp() / f"shard-{number}")
        files[-1].unlink(missing_ok=True)
        durable.write_new(files[-1], TensorFile.of_parts({name: held for name, held in parts.items() if held}))
    stored = stored_tensors(files)
    assert {name: tensor.shape for name, tensor in stored.items()} == {
        name: tuple(whole.shape) for name, whole in wholes.items()
    }
    into = {
        name: [part_of(torch.zeros_like(wholes[name]), box) for box in read] for name, (_, _, _, read) in drawn.items()
    }
    copy_parts(stored, into)
    for name, parts in into.items():
        for part in parts:
            assert torch.equal(part.values, part_of(wholes[name], Box(part.offsets, tuple(part.values.shape))).values)
    if count == 1:  # and by the library, where it is not in parts
        read = safetensors.torch.load_file(files[0])
        assert all(torch.equal(read[name], wholes[name]) for name, (_, _, boxes, _) in drawn.items() if len(boxes) == 1)


def test_only_what_overlaps_is_read(tmp_path, monkeypatch):
    whole = torch.arange(24.0).view(6, 4)
    for number in range(3):
        box = Box((2 * number, 0), (2, 4))
        durable.write_new(tmp_path / f"{number}", TensorFile.of_parts({"weight": [part_of(whole, box)]}))
    opened, pieces, real = [], [], safetensors.safe_open

    class Watching:
        def __init__(self, path, **options):
            opened.append(path.name)
            self.file = real(path, **options)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *given):
            self.file.__exit__(*given)

        def get_tensor(self, key):
            pieces.append(self.file.get_tensor(key))
            return pieces[-1]

        def get_slice(self, key):
            stored = self.file.get_slice(key)
            return type("Slice", (), {"__getitem__": lambda _, at: pieces.append(stored[at]) or pieces[-1]})()

    monkeypatch.setattr(safetensors, "safe_open", Watching)
    target = part_of(torch.zeros(6, 4), Box((3, 1), (3, 2)))
    copy_parts(stored_tensors(tmp_path / f"{number}" for number in range(3)), {"weight": [target]})
    assert torch.equal(target.values, whole[3:, 1:3])
    assert opened == ["1", "2"]
    assert [tuple(piece.shape) for piece in pieces] == [(1, 2), (2, 2)]


def test_parts_that_are_not_whole_and_tensors_that_do_not_fit_are_errors(tmp_path):
    whole = torch.arange(24.0).view(6, 4)
    durable.write_new(tmp_path / "file", TensorFile.of_parts({"weight": [part_of(whole, Box((0, 0), (5, 4)))]}))
    with pytest.raises(CheckpointError, match="weight is not whole in"):
        load_tensors([tmp_path / "file"], {"weight": torch.zeros(6, 4)})
    for target in (torch.zeros(5, 4), torch.zeros(6, 4, dtype=torch.int64)):
        with pytest.raises(CheckpointError, match="does not fit this model: weight is F32"):
            load_tensors([tmp_path / "file"], {"weight": target})
    with pytest.raises(CheckpointError, match="bias is missing; weight is not expected"):
        load_tensors([tmp_path / "file"], {"bias": torch.zeros(1)})
    (tmp_path / "broken").write_bytes(b"\0" * 20)
    with pytest.raises(CheckpointError, match="can't be read"):
        load_tensors([tmp_path / "broken"], {})
