"""An emulator of one Azure Event Grid custom topic: publishing, retries, dead letters, and its faults on demand.

``python -m local.event_grid --port 0 --topic NAME --key KEY [--data-dir DIR]
[--dead-letter-connection-string CONN] [--time-scale X]`` listens on the loopback interface only.

**Publish** to ``POST /<topic>/api/events?api-version=2018-01-01`` with ``aeg-sas-key`` or ``aeg-sas-token``, as the
Azure SDKs do: the endpoint to give them is ``http://127.0.0.1:<port>/<topic>/api/events``. The content type says in
which schema a batch is. What was published as CloudEvents is always delivered as CloudEvents; Event Grid events are
delivered in the schema of the subscription. Entra tokens are refused (401), for nothing here could verify them.
An answer of 200 means that the events are in the journal: with a data directory they survive ``kill -9``.

**Control**, as JSON and without authentication (so never expose the port):

``PUT /control/topics/<topic>/subscriptions/<name>``
    Creates or changes a subscription, see `SubscriptionSettings`, and starts the handshake, which is repeated until
    it succeeds. A changed endpoint or schema takes over only then. Events published before are not delivered.
``GET`` the same
    ``state`` (``AwaitingManualAction`` or ``Active``), why the last handshake failed, and the settings, without the
    query of the endpoint and the values of delivery headers, which are secrets.
``DELETE`` the same
    Ends the subscription and drops what is on its way; the endpoint is told once.
``GET /control/topics/<topic>/subscriptions/<name>/validate?code=``
    The validation URL of the handshake, for validation by hand.
``GET /control/stats``
    Counters since the start, and how many deliveries are pending, see `Stats`.
``POST /control/faults``
    Replaces all fault switches, see `Faults`; ``{}`` turns them off.
``POST /control/drain``
    ``{"timeoutSeconds": 10}``: waits until nothing is due or under way (``{"drained": true}``) or the time is up.
``POST /control/clock/advance``
    ``{"seconds": n}``: moves a manual clock, in one jump; 409 for a running one.

**Time.** ``--time-scale 60`` lets an hour of retry schedule, time to live and dead lettering pass in a minute;
``--time-scale 0`` stops the clock, which then moves only by ``/control/clock/advance``. A subscriber's 30 s to
answer are real seconds, except under a stopped clock.

Where Microsoft documents no number, those in `delivery` are inferred. Not emulated: the throughput limits of the
service, domains, advanced filters, and custom input schemas.
"""
