from sdetr.data.labels import LabelMap

CATEGORIES = {7: "cat", 1: "dog", 90: "toothbrush"}


def test_contiguous_labels_follow_the_order_of_the_ids():
    label_map = LabelMap(CATEGORIES, "contiguous")
    assert label_map.num_classes == 3
    assert [label_map.label(identity) for identity in (1, 7, 90)] == [0, 1, 2]
    assert [label_map.category_id(label) for label in (0, 1, 2, 3)] == [1, 7, 90, None]
    assert label_map.names == {0: "dog", 1: "cat", 2: "toothbrush"}


def test_category_ids_as_labels_leave_gaps():
    label_map = LabelMap(CATEGORIES, "category_id")
    assert label_map.num_classes == 91
    assert [label_map.label(identity) for identity in CATEGORIES] == [7, 1, 90]
    assert [label_map.category_id(label) for label in (0, 1, 2, 90)] == [None, 1, None, 90]
    assert label_map.names == CATEGORIES
