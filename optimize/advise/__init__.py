"""RAG, fine-tuning, both or neither? Measured on a user's own documents and questions.

data       questions to held-out ones and to prompts to train on, as `edge ask` would build them
arms       the four ways to answer, each asked through `edge ask`
updates    what a change of a tenth of the documents costs
figures    rows to cells with intervals, and the arms against each other (pure)
recommend  cells to a recommendation, each reason with the cells that it rests on (pure)
run        the whole measurement within a time budget
report     table and page
"""
