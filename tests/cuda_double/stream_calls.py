"""Streams, events, captures and graphs."""

from __future__ import annotations

import threading
from typing import Any

from .core import LEGACY, Core, Error, call, real
from .work import Capture, Event, Executable, Node, Operation, Stream, ancestors, nothing

# Functions are spelled as CUDA spells them.
# ruff: noqa: N802


class StreamCalls(Core):
    @call
    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        handle = self._new_handle()
        blocking = not flags & real.cudaStreamNonBlocking
        self._streams[int(handle)] = Stream(int(handle), blocking)
        return Error.cudaSuccess, handle

    @call
    def cudaStreamDestroy(self, stream: Any) -> tuple[Any, ...]:
        found = self._stream(stream)
        if found is None or found.handle == LEGACY:
            return (self._refuse(Error.cudaErrorInvalidResourceHandle),)
        if found.capture is not None:
            return (self._spoil(Error.cudaErrorStreamCaptureUnsupported, found.capture),)
        # What is enqueued there still runs.
        found.destroyed = True
        return (Error.cudaSuccess,)

    @call
    def cudaStreamSynchronize(self, stream: Any) -> tuple[Any, ...]:
        found = self._stream(stream)
        if found is None:
            return (self._refuse(Error.cudaErrorInvalidResourceHandle),)
        if capture := found.capture or self._own_capture():
            return (self._spoil(Error.cudaErrorStreamCaptureUnsupported, capture),)
        return (self._complete(self._tails(found)),)

    @call
    def cudaStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> tuple[Any, ...]:
        waiting, mark = self._stream(stream), self._events.get(int(event))
        if waiting is None or mark is None:
            return (self._refuse(Error.cudaErrorInvalidResourceHandle),)
        if mark.captured is not None:
            return (self._join(waiting, *mark.captured),)
        if waiting.capture is not None:
            # The graph would depend on work outside of it.
            return (self._spoil(Error.cudaErrorStreamCaptureIsolation, waiting.capture),)
        if mark.record is None:
            return (Error.cudaSuccess,)
        return self._enqueue(waiting.handle, nothing, (mark.record,))[:1]

    @call
    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        handle = self._new_handle()
        self._events[int(handle)] = Event(timing=not flags & real.cudaEventDisableTiming)
        return Error.cudaSuccess, handle

    @call
    def cudaEventDestroy(self, event: Any) -> tuple[Any, ...]:
        if self._events.pop(int(event), None) is None:
            return (self._refuse(Error.cudaErrorInvalidResourceHandle),)
        return (Error.cudaSuccess,)

    @call
    def cudaEventRecord(self, event: Any, stream: Any) -> tuple[Any, ...]:
        mark, found = self._events.get(int(event)), self._stream(stream)
        if mark is None or found is None:
            return (self._refuse(Error.cudaErrorInvalidResourceHandle),)
        if found.capture is not None:
            if found.capture.invalid:
                return (self._refuse(Error.cudaErrorStreamCaptureInvalidated),)
            mark.captured = (found.capture, found.nodes)
            return (Error.cudaSuccess,)

        def run() -> None:
            if mark.record is operation:
                mark.time_ms = self._scheduler.clock_ms

        status, operation = self._enqueue(found.handle, run)
        if operation is not None:
            mark.record, mark.captured, mark.time_ms = operation, None, None
        return (status,)

    @call
    def cudaEventQuery(self, event: Any) -> tuple[Any, ...]:
        mark, error = self._mark_to_wait_for(event)
        if mark is None:
            return (error,)
        if mark.record is not None and not mark.record.done:
            # Time passes while a program polls.
            self._scheduler.progress(3)
            if not mark.record.done:
                return (Error.cudaErrorNotReady,)
        return (self._sticky or Error.cudaSuccess,)

    @call
    def cudaEventSynchronize(self, event: Any) -> tuple[Any, ...]:
        mark, error = self._mark_to_wait_for(event)
        if mark is None:
            return (error,)
        return (self._complete([] if mark.record is None else [mark.record]),)

    @call
    def cudaEventElapsedTime(self, start: Any, end: Any) -> tuple[Any, ...]:
        times = []
        for event in (start, end):
            mark = self._events.get(int(event))
            if mark is not None and mark.captured is not None:
                return self._refuse(Error.cudaErrorCapturedEvent), None
            if mark is None or not mark.timing or mark.record is None:
                return self._refuse(Error.cudaErrorInvalidResourceHandle), None
            if mark.time_ms is None:
                return self._refuse(Error.cudaErrorNotReady), None
            times.append(mark.time_ms)
        return Error.cudaSuccess, times[1] - times[0]

    @call
    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[Any, ...]:
        found = self._stream(stream)
        if found is None:
            return (self._refuse(Error.cudaErrorInvalidResourceHandle),)
        if found.handle == LEGACY:
            return (self._refuse(Error.cudaErrorStreamCaptureUnsupported),)
        if found.capture is not None:
            return (self._spoil(Error.cudaErrorIllegalState, found.capture),)
        in_global_mode = mode == real.cudaStreamCaptureMode.cudaStreamCaptureModeGlobal
        capture = Capture(found, threading.get_ident(), in_global_mode, streams=[found])
        found.capture, found.nodes = capture, ()
        self._captures.append(capture)
        return (Error.cudaSuccess,)

    @call
    def cudaStreamEndCapture(self, stream: Any) -> tuple[Any, ...]:
        found = self._stream(stream)
        if found is None or found.capture is None:
            return self._refuse(Error.cudaErrorIllegalState), None
        capture = found.capture
        if capture.origin is not found:
            return self._spoil(Error.cudaErrorStreamCaptureUnmatched, capture), None
        if capture.thread != threading.get_ident():
            return self._spoil(Error.cudaErrorStreamCaptureWrongThread, capture), None
        joined = ancestors(found.nodes)
        unjoined = any(node not in joined for s in capture.streams for node in s.nodes)
        for member in capture.streams:
            member.capture, member.nodes = None, ()
        self._captures.remove(capture)
        if capture.invalid:
            return self._refuse(Error.cudaErrorStreamCaptureInvalidated), None
        if unjoined:
            return self._refuse(Error.cudaErrorStreamCaptureUnjoined), None
        handle = self._new_handle()
        self._graphs[int(handle)] = tuple(capture.nodes)
        return Error.cudaSuccess, handle

    @call
    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        nodes = self._graphs.get(int(graph))
        if nodes is None:
            return self._refuse(Error.cudaErrorInvalidValue), None
        handle = self._new_handle()
        self._executables[int(handle)] = Executable(nodes)
        return Error.cudaSuccess, handle

    @call
    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        if self._graphs.pop(int(graph), None) is None:
            return (self._refuse(Error.cudaErrorInvalidValue),)
        return (Error.cudaSuccess,)

    @call
    def cudaGraphExecDestroy(self, graphExec: Any) -> tuple[Any, ...]:
        if self._executables.pop(int(graphExec), None) is None:
            return (self._refuse(Error.cudaErrorInvalidValue),)
        return (Error.cudaSuccess,)

    @call
    def cudaGraphLaunch(self, graphExec: Any, stream: Any) -> tuple[Any, ...]:
        executable, found = self._executables.get(int(graphExec)), self._stream(stream)
        if executable is None or found is None:
            return (self._refuse(Error.cudaErrorInvalidValue),)
        own = self._own_capture() if found.handle == LEGACY else None
        if capture := found.capture or own:
            return (self._spoil(Error.cudaErrorStreamCaptureUnsupported, capture),)
        before = self._tails(found)
        if executable.last is not None:
            # Launches of one graph follow each other, whatever streams they are on.
            before.append(executable.last)
        made: dict[Node, Operation] = {}
        for node in executable.nodes:
            after = tuple(made[earlier] for earlier in node.after) or tuple(before)
            made[node] = self._scheduler.add(Operation(node.run, object(), after))
        last = self._scheduler.add(Operation(nothing, found, (*before, *made.values())))
        found.tail = executable.last = last
        return (Error.cudaSuccess,)

    def _mark_to_wait_for(self, event: Any) -> tuple[Event | None, Any]:
        """The event, or None with the error that keeps the host from waiting for it."""
        mark = self._events.get(int(event))
        if mark is None:
            return None, self._refuse(Error.cudaErrorInvalidResourceHandle)
        if mark.captured is not None:
            return None, self._spoil(Error.cudaErrorCapturedEvent, mark.captured[0])
        if own := self._own_capture():
            return None, self._spoil(Error.cudaErrorStreamCaptureUnsupported, own)
        return mark, Error.cudaSuccess

    def _join(self, waiting: Stream, capture: Capture, nodes: tuple[Node, ...]) -> Any:
        """Let a stream wait for an event of a capture, which makes it part of the capture."""
        if capture not in self._captures:
            return self._refuse(Error.cudaErrorCapturedEvent)
        if waiting.handle == LEGACY:
            return self._spoil(Error.cudaErrorStreamCaptureImplicit, capture)
        if waiting.capture not in (None, capture):
            return self._spoil(Error.cudaErrorStreamCaptureMerge, waiting.capture, capture)
        if capture.invalid:
            return self._refuse(Error.cudaErrorStreamCaptureInvalidated)
        if waiting.capture is None:
            waiting.capture = capture
            capture.streams.append(waiting)
        waiting.nodes = tuple(dict.fromkeys((*waiting.nodes, *nodes)))
        return Error.cudaSuccess
