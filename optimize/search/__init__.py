"""`edge optimize search`: several quantizations of one model, measured alike, and the smallest that is good enough.

candidates  what is tried (pure)             questions  what is asked: validation and test, by document
workbench   one candidate's figures, cached  speed      rates of one load, in a process of its own
front       who is on the front, who is picked, how many questions it takes (pure)
run         the straight path                report     table, result.json, front.svg, recipe.yaml
"""
