"""A ranking service with FastAPI: it calls Score, and returns a user's candidates, best first.

    pip install fastapi uvicorn
    LIFELINE_ADDRESS=127.0.0.1:50051 uvicorn --app-dir examples ranking_service:app
    curl -d '{"user_id": "user0000", "candidates": [3, 7, 9]}' -H 'content-type: application/json' 127.0.0.1:8000/rank

The service needs only the bare package, without torch or RocksDB. If Lifeline does not answer within the timeout, the
service returns the candidates in the order of the request, with `is_ranked` false: better unranked than late.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field

from lifeline.client import LifelineClient, LifelineError

TIMEOUT_S = float(os.environ.get("RANKING_TIMEOUT_S", "0.2"))

ItemId = Annotated[int, Field(ge=0, lt=2**64)]


class RankRequest(BaseModel):
    """A user, and the items to rank."""

    user_id: str
    candidates: Annotated[list[ItemId], Field(min_length=1, max_length=256)]
    min_offset: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    """The offset of the user's last acknowledged action: the ranking then includes it."""


class RankedItem(BaseModel):
    """An item and its score; None if it was not ranked."""

    item_id: int
    score: float | None


class Ranking(BaseModel):
    """The candidates, best first."""

    is_ranked: bool
    model_version: str
    items: list[RankedItem]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep one client open while the service runs; all threads share it."""
    with LifelineClient(os.environ.get("LIFELINE_ADDRESS", "127.0.0.1:50051"), timeout_s=TIMEOUT_S) as client:
        app.state.client = client
        yield


app = FastAPI(title="Ranking", lifespan=lifespan)


# Not `async`: the client blocks, so FastAPI must run each call in its thread pool.
@app.post("/rank")
def rank(body: RankRequest, request: Request) -> Ranking:
    """Rank the candidates on the user's current history."""
    client: LifelineClient = request.app.state.client
    try:
        scores = client.score(body.user_id, body.candidates, min_offset=body.min_offset)
    except LifelineError as error:
        if error.code.name == "INVALID_ARGUMENT":
            raise HTTPException(422, error.message) from error
        items = [RankedItem(item_id=item_id, score=None) for item_id in body.candidates]
        return Ranking(is_ranked=False, model_version="", items=items)
    best_first = (-scores.score).argsort(kind="stable")
    items = [RankedItem(item_id=int(scores.item_id[row]), score=float(scores.score[row])) for row in best_first]
    return Ranking(is_ranked=True, model_version=scores.model_version, items=items)
