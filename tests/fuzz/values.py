"""What is drawn everywhere: values of JSON, and how many examples a run of all tests makes."""

from hypothesis import settings
from hypothesis import strategies as st

most_often = settings(max_examples=1000, deadline=None)
often = settings(max_examples=200, deadline=None)
seldom = settings(max_examples=100, deadline=None)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
