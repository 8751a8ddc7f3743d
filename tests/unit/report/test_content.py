"""What a report consists of: its tables, those behind the charts included."""

from usseg_ray.core.table import Table
from usseg_ray.report.content import Chart, Note, Report, Section


def test_the_tables_of_a_report_are_listed_with_those_of_its_charts() -> None:
    own, drawn = Table("own", (), ()), Table("drawn", (), ())
    section = Section("s", "S", (own, Note("nothing"), Chart("<svg/>", drawn)))
    assert Report("r", {}, (section,)).tables() == [(section, own), (section, drawn)]
