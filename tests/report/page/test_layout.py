from itertools import combinations

import pytest

from drpai_qat.report.page.layout import HEIGHT, WIDTH, arrange


def residual(blocks):
    """Each block: two boxes and a sum that also reads the block's input."""
    inputs = [[-1]]
    for _ in range(blocks):
        start = len(inputs) - 1
        inputs += [[start], [start + 1], [start + 2, start]]
    return inputs


@pytest.mark.parametrize("inputs", [residual(20), [[-1], [0], [0], [0], [1, 2, 3]], [[-1]] * 5, [[]]])
def test_boxes_do_not_overlap_and_arrows_go_on(inputs):
    picture = arrange(inputs)
    assert len(picture.places) == len(inputs)
    for one, other in combinations(picture.places, 2):
        assert abs(one.x - other.x) >= WIDTH or abs(one.y - other.y) >= HEIGHT
    for place in picture.places:
        assert 0 <= place.x <= picture.width - WIDTH
        assert 0 <= place.y <= picture.height - HEIGHT
    for source, target, path in picture.edges:
        before, after = picture.places[source], picture.places[target]
        assert (before.column, before.y) < (after.column, after.y)
        assert path.startswith("M")


def test_columns_begin_where_one_tensor_is_read():
    picture = arrange(residual(20))
    firsts = [
        i for i, place in enumerate(picture.places) if place.column and picture.places[i - 1].column != place.column
    ]
    assert len(firsts) == 4
    assert all((first - 1) % 3 == 0 for first in firsts)  # the first box of a block


def test_no_graph():
    assert arrange([]).places == ()
