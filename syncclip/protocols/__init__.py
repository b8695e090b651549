"""From the name of a protocol of the literature to its runs on all datasets, and to tables beside published figures.

Below the folder of a reproduction:

<dataset>/synthetic/
    The synthetic set of a dataset, which all protocols share.
<dataset>/<runs>/
    recipe.yaml, study.json, study.parquet and cells/, as a study has them; protocols that read the same runs
    (base-to-novel and open-vocabulary, cross-dataset and domain-generalisation) share them.
<protocol>.parquet
    One row for each run and each dataset that it is tested on; see `scores.gather`.
<protocol>.md, <protocol>.html
    The tables; the page has a plot, too.
"""
