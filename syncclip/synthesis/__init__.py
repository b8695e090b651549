"""Text-to-image generation, fanned out by Ray Data into WebDataset shards.

settings   section `synthesis` of a recipe
plan       which image has which class, prompt and seed; which shard holds it: pure functions
prompts    from a class name to a sentence
generators any diffusers text-to-image pipeline, one torch.Generator an image
guides     the few real images that generated ones may start from
tuning     batch size and attention, measured before a plan is agreed_plan
filters    judges of generated images
generating    one shard: generate, judge, encode
maker      what an actor does for a row: generate, commit, report
pool       Ray Data actors that generate shards; bounded restarts, errors as rows
graph      plan minus markers -> pool -> held against the plan
facts      the state of a run, added up from reports; status and metrics show it elsewhere
monitor    whether filters reject everything, which ends a run
rejects    thumbnails of what filters rejected
summary    totals, from the markers alone
quality    how good a set is: read right, varied, near the real images, nothing twice
shift      how far synthetic images are from real ones
"""
