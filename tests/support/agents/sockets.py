"""A BedrockAgentCoreApp with a WebSocket that does as it is told."""

import asyncio
import json
import os

from bedrock_agentcore.runtime import BedrockAgentCoreApp
from starlette.websockets import WebSocketDisconnect

app = BedrockAgentCoreApp()
ended = []


@app.entrypoint
def invoke(payload):
    return {"ended": ended, "pid": os.getpid()}


@app.websocket
async def talk(websocket, context):
    await websocket.accept()
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"], message.get("reason"))
            if message.get("bytes") is not None:
                await websocket.send_bytes(message["bytes"][::-1])
                continue
            said = message["text"]
            told = json.loads(said) if said.startswith("{") else {"do": "say", "text": said}
            if told["do"] == "say":
                await websocket.send_text(told["text"])
            elif told["do"] == "context":
                query, headers = dict(websocket.query_params), dict(websocket.headers)
                seen = {"session": context.session_id, "query": query, "headers": headers, "pid": os.getpid()}
                await websocket.send_json(seen)
            elif told["do"] == "close":
                await websocket.close(told["code"], told["reason"])
                ended.append("closed")
                return
            elif told["do"] == "exit":
                os._exit(3)
            elif told["do"] == "count":
                for number in range(told["to"]):
                    await websocket.send_text(str(number))
                    await asyncio.sleep(0)
    except WebSocketDisconnect as gone:
        ended.append(gone.code)


app.run()
