/* May a guest ever run at both ends of a migration, however late a transaction is done?
 *
 * Source and destinations by the rules of lockplugins/etcd: an attempt has a nonce, which the value
 * of the source's owner keys carries. Its destination writes it as its intent; the source, at
 * postmigrate, writes that it is ready for this nonce; the destination takes the disks if source,
 * nonce and ready are as they were told. The source runs again only after a committed transaction
 * of its own that found it the owner in this attempt, dropped both and moved its keys to the next
 * nonce: what is done late finds another one.
 * Each transaction may be lost, answered or not, and be done once at any later time, also when
 * its sender has given it up and has begun another attempt. A destination may ask too early.
 * Each mistake is one macro: spin finds both ends running with it, and none without.
 */

#define ATTEMPTS 3
#define SOURCE 0

/* The store. */
byte owner = SOURCE;		/* or the nonce of the destination that has it */
byte attempt = 1;		/* the nonce in the source's owner keys */
byte intent = 0, ready = 0;	/* a nonce, 0 while there is none */

bool source_runs = true;
byte destinations_run = 0;

/* What is on its way, given up or not: done once at any time. */
bool late_intent[4], late_ready[4], late_complete[4], late_cancel[4];

#ifdef MISTAKE_NO_NONCE
#define is(what, nonce) (what != 0)
#else
#define is(what, nonce) (what == nonce)
#endif
#ifdef MISTAKE_KEYS_WITHOUT_NONCE
#define in_attempt(nonce) (owner == SOURCE)
#else
#define in_attempt(nonce) (owner == SOURCE && is(attempt, nonce))
#endif

inline do_intent(n) {
	if :: intent == 0 && in_attempt(n) -> intent = n :: else fi
}
inline do_ready(n) {
	if :: in_attempt(n) && is(intent, n) -> ready = n :: else fi
}
inline do_complete(n) {
#ifdef MISTAKE_NO_READY
	if :: in_attempt(n) && is(intent, n) ->
#else
	if :: in_attempt(n) && is(intent, n) && is(ready, n) ->
#endif
		owner = n; intent = 0; ready = 0;
		destinations_run++;		/* it runs at once: the worst that it may do */
		assert(!source_runs && destinations_run == 1)
	:: else
	fi
}
inline do_cancel(n, done) {
	if
	:: owner == SOURCE && attempt == n -> attempt = n + 1; intent = 0; ready = 0; done = true
	:: owner == SOURCE && attempt == n + 1 -> done = true	/* an earlier try has done it */
	:: else -> done = false
	fi
}

proctype Source() {
	byte n = 1;
	bool cancelled;
	do
	:: n <= ATTEMPTS ->
		if
		:: source_runs = false;			/* postmigrate */
			if
			:: late_ready[n] = true		/* done later, or never */
			:: atomic { do_ready(n) }
			fi
		:: skip					/* given up while it ran */
		fi;
		/* Cancelled: the answer of a transaction, or none, and then another one. */
		do
		:: atomic { !late_cancel[n] -> late_cancel[n] = true }
		:: atomic { do_cancel(n, cancelled);
			if
			:: cancelled -> source_runs = true;
				assert(destinations_run == 0)
			:: else
			fi };
			break
#ifdef MISTAKE_RESUMED_AFTER_READ
		:: atomic { owner == SOURCE -> cancelled = true }; source_runs = true;
			assert(destinations_run == 0); break
#endif
		od;
		if
		:: cancelled -> n++
		:: else -> break			/* the destination has it: the source's end */
		fi
	:: else -> break
	od
}

proctype Destination(byte n) {
	if
	:: late_intent[n] = true
	:: atomic { do_intent(n) }
	fi;
	do
	:: atomic { !late_complete[n] -> late_complete[n] = true }
	:: atomic { do_complete(n) }
	:: break
	od
}

proctype Etcd() {
	byte n;
	bool ignored;
	do
	:: atomic { select(n : 1 .. ATTEMPTS);
		if
		:: late_intent[n] -> late_intent[n] = false; do_intent(n)
		:: late_ready[n] -> late_ready[n] = false; do_ready(n)
		:: late_complete[n] -> late_complete[n] = false; do_complete(n)
		:: late_cancel[n] -> late_cancel[n] = false; do_cancel(n, ignored); ignored = false
		fi;
		n = 0 }
	od
}

init {
	atomic { run Source(); run Destination(1); run Destination(2); run Destination(3); run Etcd() }
}
