"""How the pages of `reports/` look."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .3em .8em; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left } img { max-width: 100% }
figure { display: inline-block; margin: 0 1em 1em 0 } figcaption { font-size: 13px; color: #555 }
code, dd { font-size: 13px } ol { columns: 2; font-size: 13px }
"""
