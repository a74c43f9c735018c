import pytest
import torch

from lightning_alignprune.state.sample_table import SampleTable


def table(*values):
    return SampleTable(torch.tensor(values).unsqueeze(1))


def test_rows_are_read_as_copies_and_written_by_index():
    found = table(1.0, 2.0, 3.0)
    rows = found.read(torch.tensor([2, 0]))
    rows.zero_()
    assert found.rows.flatten().tolist() == [1.0, 2.0, 3.0]
    found.write(torch.tensor([2, 0]), torch.tensor([[30.0], [10.0]]))
    found.add(torch.tensor([1, 1]), torch.tensor([[1.0], [2.0]]))
    assert found.rows.flatten().tolist() == [10.0, 5.0, 30.0]


def test_ranks_agree_on_what_each_has_trained_bit_for_bit():
    value = torch.tensor([[0.1]])
    tables = [table(1.0, 2.0, 3.0, 4.0), table(1.0, 2.0, 3.0, 4.0)]
    tables[0].write(torch.tensor([0]), value)
    tables[0].write(torch.tensor([2]), value)
    tables[1].write(torch.tensor([3]), 2 * value)
    tables[1].write(torch.tensor([2]), 3 * value)  # repeated to give each rank as many
    changes = [torch.cat(parts) for parts in zip(*(t.changes() for t in tables), strict=True)]
    for found in tables:
        found.agree(*changes)
        assert torch.equal(found.rows[[0, 1, 3]], torch.tensor([[0.1], [2.0], [0.2]]))
        torch.testing.assert_close(found.rows[2], 2 * value[0])
        assert len(found.changes()[0]) == 0
        found.agree(*found.changes())  # nothing new: nothing happens


def test_saved_rows_of_another_set_are_refused():
    found = table(1.0, 2.0)
    found.load(torch.tensor([[3.0], [4.0]]))
    assert found.rows.flatten().tolist() == [3.0, 4.0]
    with pytest.raises(ValueError, match=r"expected rows of shape \(2, 1\), got \(3, 1\)"):
        found.load(torch.zeros(3, 1))
