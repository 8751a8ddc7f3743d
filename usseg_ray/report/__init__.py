"""A sweep's report: what the MLflow store holds, in tables and charts, on one offline page.

It stands at the end of the path, after `tracking`. `read` reads the runs, the builders
(`leaderboard`, `curves`, `details`, `gallery`, `repeat`) turn them into the sections of `content`,
and `page` and `plain` write those as HTML, Markdown, CSV or JSON. No number comes from anywhere but
the store.
"""
