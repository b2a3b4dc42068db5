/* May a guest ever run at both ends of a migration, however late a transaction is done?
 *
 * Source and destinations by the rules of lockplugins/etcd. A destination has the ticket, from
 * before it can receive until it owns, gives up or is dead. One key tells how far an attempt is,
 * and whose it is, by a nonce: the source, the owner, makes it PREPARED; HANDED when its guest has
 * stopped for good; a destination that has the ticket, and was told the nonce, then owns. The
 * source runs again only after a committed transaction of its own that found it the owner in this
 * attempt, which is OVER from then on: once HANDED, when it has the ticket itself.
 * Each transaction may be lost, answered or not, and be done once at any later time, also when
 * its sender has given it up and has begun another attempt. That of PREPARED demands the key as it
 * was read: done late it would begin an attempt that is over. A destination may ask too early, and
 * with any cookie that there was. Who has died is known for sure (takeover.pml).
 * Each mistake is one macro: spin finds both ends running with it, or one with a memory that the
 * disks have moved on from, and none without.
 */

#define ATTEMPTS 2
#define DESTINATIONS 2
#define SOURCE 0
#define NOBODY 0
#define SOURCES_TICKET 3

/* The store. */
byte owner = SOURCE;		/* or the destination that has it */
byte ticket = NOBODY;
byte nonce = 0, revision = 0;	/* of the attempt's key */
mtype = { OVER, PREPARED, HANDED };
mtype step = OVER;

bool source_runs = true, stopped = false;	/* now; in this attempt */
byte running = 0;		/* destinations */
byte epoch = 1;			/* rises whenever the source runs again */
bool dead[4];			/* destinations; what they asked for may still be done */
byte memory[4];			/* the epoch of what they have received, 0 while that is nothing */

/* What is on its way, given up or not: done once at any time. */
bool late_ticket[3], late_prepare[3], late_ready[3], late_cancel[3], late_complete[5];
bool late_own_ticket = false;	/* the source's */
bool late_cancel_alone[3];	/* asked when the guest had stopped */
byte seen[3];			/* the revision that a late PREPARED demands */
#define COMPLETE(d, n) ((d - 1) * ATTEMPTS + n)

#ifdef MISTAKE_NO_NONCE
#define in_attempt(n) (owner == SOURCE)
#else
#define in_attempt(n) (owner == SOURCE && nonce == n)
#endif
#ifdef MISTAKE_NO_READY
#define may_complete(n) (in_attempt(n) && step != OVER)
#else
#define may_complete(n) (in_attempt(n) && step == HANDED)
#endif
#ifdef MISTAKE_PREPARED_AT_ANY_REVISION
#define unchanged(r) true
#else
#define unchanged(r) (revision == r)
#endif

inline do_ticket(d) {
	if :: ticket == NOBODY && !dead[d] -> ticket = d :: else fi	/* dead: no session */
}
inline do_own_ticket() {
	if :: ticket == NOBODY || dead[ticket] -> ticket = SOURCES_TICKET :: else fi
}
inline do_prepare(n, r) {
	if :: owner == SOURCE && unchanged(r) -> nonce = n; step = PREPARED; revision++ :: else fi
}
inline do_ready(n) {
	if :: in_attempt(n) && step == PREPARED -> step = HANDED; revision++ :: else fi
}
inline do_complete(d, n) {
	if :: may_complete(n) && ticket == d ->
		owner = d; step = OVER; ticket = NOBODY;
		if :: !dead[d] ->
			running++;		/* it runs at once: the worst that it may do */
			assert(!source_runs && running == 1);
			assert(memory[d] == 0 || memory[d] == epoch)
		:: else fi
	:: else fi
}
#ifdef MISTAKE_CANCELLED_BESIDE_DESTINATION
#define is_alone true
#else
#define is_alone (ticket == SOURCES_TICKET)
#endif
inline do_cancel(n, alone, done) {
	if
	:: owner == SOURCE && nonce == n && step == OVER ->	/* by an earlier try */
		ticket = (ticket == SOURCES_TICKET -> NOBODY : ticket); done = true
	:: in_attempt(n) && step != OVER && (is_alone || !alone) && (alone || step == PREPARED) ->
		step = OVER; revision++; done = true;
		ticket = (ticket == SOURCES_TICKET -> NOBODY : ticket)
	:: else -> done = false
	fi
}

proctype Source() {
	byte n = 1;
	bool told, cancelled, alone;
	do
	:: n <= ATTEMPTS ->
		atomic { seen[n] = revision;
			if :: ticket == SOURCES_TICKET -> ticket = NOBODY :: else fi };
		if
		:: late_prepare[n] = true; told = false		/* no answer: not begun */
		:: atomic { do_prepare(n, seen[n]);
			told = (nonce == n && step == PREPARED) };
			if :: late_prepare[n] = true :: skip fi	/* asked twice */
		fi;
		if
		:: !told -> n++
		:: told ->
			if
			:: atomic { source_runs = false; stopped = true;	/* postmigrate */
				if
				:: ticket != NOBODY && ticket != SOURCES_TICKET && !dead[ticket] &&
				   memory[ticket] == 0 ->
					memory[ticket] = epoch
				:: skip
				fi };
				if
				:: late_ready[n] = true			/* done later, or never */
				:: atomic { do_ready(n) }
				fi
			:: skip						/* given up while it ran */
			fi;
			/* Cancelled: the answer of a transaction, or none, and then another one. */
			do
#ifdef MISTAKE_CANCELLED_BESIDE_DESTINATION
			:: stopped -> alone = true
#endif
			:: atomic { stopped -> do_own_ticket(); alone = (ticket == SOURCES_TICKET) }
			:: atomic { stopped && !late_own_ticket -> late_own_ticket = true }
			:: atomic { !stopped && !late_cancel[n] -> late_cancel[n] = true }
			:: atomic { alone && !late_cancel_alone[n] -> late_cancel_alone[n] = true }
			:: atomic { (alone || !stopped || owner != SOURCE) ->
				do_cancel(n, stopped, cancelled);
				if
				:: cancelled && stopped ->
					source_runs = true; epoch++; assert(running == 0)
				:: else
				fi };
				break
#ifdef MISTAKE_RESUMED_AFTER_READ
			:: atomic { owner == SOURCE -> cancelled = true; source_runs = true; epoch++ };
				assert(running == 0); break
#endif
			od;
			if
			:: atomic { cancelled -> n++; stopped = false; told = false; cancelled = false;
				alone = false }
			:: else -> break		/* the destination has it: the source's end */
			fi
		fi
	:: else -> break
	od
}

proctype Destination(byte d) {
	byte n;
	if
	:: late_ticket[d] = true
	:: atomic { do_ticket(d) }
	fi;
	do
	:: atomic { select(n : 1 .. ATTEMPTS); late_complete[COMPLETE(d, n)] = true; n = 0 }
	:: atomic { select(n : 1 .. ATTEMPTS); do_complete(d, n); n = 0 }
	:: atomic { owner != d ->
		if :: ticket == d -> ticket = NOBODY :: skip fi;	/* cancelled, or killed */
		dead[d] = true };
		break
	od
}

proctype Etcd() {
	byte n;
	bool ignored;
	do
	:: atomic { select(n : 1 .. ATTEMPTS);
		if
		:: late_prepare[n] -> late_prepare[n] = false; do_prepare(n, seen[n])
		:: late_ready[n] -> late_ready[n] = false; do_ready(n)
		:: late_cancel[n] -> late_cancel[n] = false; do_cancel(n, false, ignored); ignored = false
		:: late_cancel_alone[n] -> late_cancel_alone[n] = false; do_cancel(n, true, ignored);
			ignored = false
		:: n == 1 && late_own_ticket -> late_own_ticket = false; do_own_ticket()
		:: n <= DESTINATIONS && late_ticket[n] -> late_ticket[n] = false; do_ticket(n)
		:: late_complete[COMPLETE(1, n)] -> late_complete[COMPLETE(1, n)] = false;
			do_complete(1, n)
		:: late_complete[COMPLETE(2, n)] -> late_complete[COMPLETE(2, n)] = false;
			do_complete(2, n)
		fi;
		n = 0 }
	od
}

init {
	atomic { run Source(); run Destination(1); run Destination(2); run Etcd() }
}
