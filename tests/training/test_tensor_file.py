"""Files of tensors: the bytes of the safetensors library, without ever holding a file whole."""

import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigtrain.storage import durable
from bigtrain.training import tensor_file
from bigtrain.training.tensor_file import TensorFile, load_tensors

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
